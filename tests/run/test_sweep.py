"""A sweep trains what is missing, goes on with what was cut off, and leaves alone what is done."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.record import Display
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SparsityConfig,
)
from nesht_jax.run.sweep import Interrupted, batches, check, planned, sweep, trained
from nesht_jax.run.train import train

SPARSE = Config(
    task="probe/linear",
    distractors=1,
    algorithm=AlgorithmConfig(num_members=8),
    sparsity=SparsityConfig(fraction=0.5, every=3),
    evaluation=EvaluationConfig(every=2, episodes=3),
    generations=4,
    checkpoint_every=2,
)
DENSE = replace(SPARSE, sparsity=SparsityConfig(method="none"))


@pytest.fixture
def config(tmp_path):
    return replace(SPARSE, out=str(tmp_path / "run"))


def weights(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.state.params)]


def files(folder):
    """What a training would change: the bytes of the metrics, and which checkpoints there are."""
    metrics = Path(folder, "metrics.jsonl").read_bytes()
    return metrics, sorted(path.name for path in Path(folder, "checkpoints").iterdir())


def interrupt_at(generation, monkeypatch):
    """Sends this process a Ctrl-C as soon as a run shows this generation."""
    shown = Display.update

    def update(self, row):
        shown(self, row)
        if row.generation == generation:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Display, "update", update)


@pytest.mark.slow
def test_every_config_runs_on_every_seed_in_a_folder_of_its_own(tmp_path, quiet):
    runs = list(sweep([DENSE, SPARSE], seeds=[3, 5], folder=tmp_path, console=quiet))
    assert [(c.seed, c.method) for c, _ in runs] == [
        (3, "NES"),
        (5, "NES"),
        (3, "NESHT"),
        (5, "NESHT"),
    ]
    folders = [result.folder for _, result in runs]
    assert len(set(folders)) == 4 and {folder.parent for folder in folders} == {tmp_path}
    assert all(result.folder == config.folder for config, result in runs)
    assert all(result.rows[-1].generation == 4 for _, result in runs)


@pytest.mark.slow
def test_a_run_of_a_sweep_is_the_run_that_training_gives(tmp_path, quiet):
    ((config, result),) = sweep([SPARSE], seeds=[2], folder=tmp_path / "a", console=quiet)
    alone = train(replace(SPARSE, seed=2, out=str(tmp_path / "b")), console=quiet)
    assert config == replace(SPARSE, seed=2, out=config.out)
    assert all(map(np.array_equal, weights(result), weights(alone)))


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(config, quiet):
    first = trained(config, console=quiet)
    before = files(first.folder)
    again = trained(config, console=quiet)
    assert files(first.folder) == before
    assert again.rows == first.rows
    assert all(map(np.array_equal, weights(again), weights(first)))


@pytest.mark.slow
def test_a_signal_ends_a_sweep_and_the_same_call_goes_on_with_it(tmp_path, quiet, monkeypatch):
    whole = trained(replace(SPARSE, seed=1, out=str(tmp_path / "whole")), console=quiet)
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        with pytest.raises(Interrupted) as error:
            list(sweep([SPARSE, DENSE], seeds=[1], folder=tmp_path / "cut", console=quiet))
    assert error.value.code == 128 + signal.SIGINT
    (cut,) = (tmp_path / "cut").iterdir()
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 1 + 2
    runs = list(sweep([SPARSE, DENSE], seeds=[1], folder=tmp_path / "cut", console=quiet))
    assert [result.rows[-1].generation for _, result in runs] == [4, 4]
    assert all(map(np.array_equal, weights(runs[0][1]), weights(whole)))


@pytest.mark.slow
def test_more_generations_go_on_with_a_finished_run(tmp_path, quiet):
    list(sweep([SPARSE], seeds=[0], folder=tmp_path, console=quiet))
    longer = replace(SPARSE, generations=6)
    ((_, result),) = sweep([longer], seeds=[0], folder=tmp_path, console=quiet)
    assert [row.generation for row in result.rows] == list(range(7))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_run_of_more_generations_is_refused(config, quiet):
    trained(config, console=quiet)
    with pytest.raises(ValueError, match="has 4 generations, more than 2"):
        trained(replace(config, generations=2), console=quiet)


@pytest.mark.slow
def test_a_run_of_other_settings_is_refused_and_left_as_it_is(config, quiet):
    before = files(trained(config, console=quiet).folder)
    other = replace(config, algorithm=AlgorithmConfig(num_members=8, sigma=0.2), seed=1)
    with pytest.raises(ValueError, match="other settings: algorithm.sigma, seed$"):
        trained(other, console=quiet)
    assert files(config.folder) == before


def test_a_folder_that_is_no_run_is_refused(config, quiet):
    config.folder.mkdir()
    (config.folder / "notes").write_text("mine")
    with pytest.raises(ValueError, match="exists"):
        trained(config, console=quiet)


@pytest.mark.slow
def test_a_check_passes_what_sweep_trains_and_writes_nothing(tmp_path, quiet):
    runs = planned([SPARSE, DENSE], seeds=[0, 1], folder=tmp_path / "sweep")
    check(runs, tmp_path / "sweep")
    assert list(tmp_path.iterdir()) == []
    done = trained(runs[0], console=quiet).folder
    before = files(done), Path(done, "config.yaml").read_bytes()
    check(runs, tmp_path / "sweep")
    assert before == (files(done), Path(done, "config.yaml").read_bytes())
    assert {run.folder for run in runs} == {
        result.folder
        for _, result in sweep(
            [SPARSE, DENSE], seeds=[0, 1], folder=tmp_path / "sweep", console=quiet
        )
    }


@pytest.mark.slow
def test_a_check_refuses_what_one_run_would_be_refused_for(tmp_path, quiet):
    longer = replace(SPARSE, generations=6)
    list(sweep([longer], seeds=[0], folder=tmp_path, console=quiet))
    with pytest.raises(ValueError, match="has 6 generations, more than 4"):
        check(planned([SPARSE, DENSE], seeds=[0], folder=tmp_path), tmp_path)
    with pytest.raises(ValueError, match="runs of other settings, as probe-linear-x1-nesht-seed0"):
        check(planned([DENSE], seeds=[0], folder=tmp_path), tmp_path)
    unknown = replace(SPARSE, optimizer=replace(SPARSE.optimizer, name="adm"))
    with pytest.raises(ValueError, match="there is no optimizer 'adm'"):
        check(planned([longer, unknown], seeds=[0], folder=tmp_path), tmp_path)
    (metrics,) = tmp_path.glob("*/metrics.jsonl")
    metrics.write_text("5\n")
    with pytest.raises(ValueError, match="is damaged"):
        check(planned([longer], seeds=[0], folder=tmp_path), tmp_path)


@pytest.mark.slow
def test_a_refused_run_of_more_generations_keeps_its_config(config, quiet):
    trained(config, console=quiet)
    before = Path(config.folder, "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="more than 2"):
        trained(replace(config, generations=2), console=quiet)
    assert Path(config.folder, "config.yaml").read_bytes() == before


# -------------------------------------------------------------------------------- side by side

COUNTDOWN = replace(
    SPARSE,
    task="probe/countdown",
    distractors=2,
    policy=PolicyConfig(start="normal"),
    sparsity=SparsityConfig(fraction=0.5, every=2),
    generations=6,
    checkpoint_every=3,
)


def with_(config, *, sigma=None, rate=None, **sparsity):
    algorithm = config.algorithm if sigma is None else replace(config.algorithm, sigma=sigma)
    optimizer = config.optimizer if rate is None else replace(config.optimizer, learning_rate=rate)
    sparsity = replace(config.sparsity, **sparsity)
    return replace(config, algorithm=algorithm, optimizer=optimizer, sparsity=sparsity)


def left(result):
    """All that a run leaves but times and norms: rows, the last state's bits, policies of
    evaluations."""
    rows = [
        row._replace(
            seconds=0, evaluation=row.evaluation and row.evaluation._replace(segment_norms=[])
        )
        for row in result.rows
    ]
    state = result.state._replace(key=jax.random.key_data(result.state.key))
    policies = read_arrays(result.folder)
    arrays = [*jax.tree.leaves(state), *(policies[name] for name in sorted(policies))]
    return rows, [np.asarray(array).tobytes() for array in arrays]


def norms(result):
    """The norms of each evaluation, which are sums that XLA may order as it likes."""
    return np.array([row.evaluation.segment_norms for row in result.rows if row.evaluation])


def alone(config, folder, quiet):
    return train(replace(config, out=str(folder / config.folder.name)), console=quiet)


def sizes(bases, seeds=(0,), folder=Path("x")):
    return [len(batch) for batch in batches(planned(bases, seeds=seeds, folder=folder))]


def test_runs_that_differ_in_numbers_share_a_program():
    numbers = [with_(SPARSE, sigma=0.1), with_(SPARSE, rate=0.1), with_(SPARSE, fraction=0.6)]
    assert sizes([SPARSE, *numbers], seeds=[0, 1]) == [8]
    assert sizes([with_(SPARSE, keep=k) for k in (1, 2, 3)]) == [3]


@pytest.mark.parametrize(
    "other",
    [
        DENSE,
        with_(SPARSE, keep=3),
        with_(SPARSE, every=5),
        with_(SPARSE, fraction=1 / 3),  # which arithmetic in 32 bits might take for another
        replace(SPARSE, distractors=2),
        replace(SPARSE, generations=5),
        replace(SPARSE, optimizer=OptimizerConfig("adam")),
        replace(SPARSE, policy=PolicyConfig(hidden=(4,))),
    ],
)
def test_runs_that_differ_in_more_do_not(other):
    assert sizes([SPARSE, other], seeds=[0, 1]) == [2, 2]


def test_a_fraction_of_a_quantile_rule_is_no_number_of_a_program():
    fractions = [with_(SPARSE, rule="stale_quantile", fraction=f) for f in (0.5, 0.6)]
    assert sizes(fractions, seeds=[0, 1]) == [2, 2]


def test_runs_of_a_simulator_outside_jax_are_trained_one_after_another():
    pytest.importorskip("envpool")
    assert sizes([replace(SPARSE, task="envpool/Pendulum-v1")], seeds=range(3)) == [1, 1, 1]


def test_side_by_side_are_no_more_than_fill_the_device(monkeypatch):
    monkeypatch.setattr("nesht_jax.run.sweep.most_envs", lambda: 64)
    assert sizes([replace(SPARSE, num_envs=16)], seeds=range(9)) == [3, 3, 3]
    assert sizes([replace(SPARSE, num_envs=65)], seeds=range(2)) == [1, 1]
    weights = SPARSE.algorithm.num_members * 11
    monkeypatch.setattr("nesht_jax.run.sweep.STORED_ENTRIES", 2 * weights)
    assert sizes([SPARSE], seeds=range(5)) == [2, 2, 1]


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.parametrize("steps", [500, None])
def test_a_run_beside_others_is_the_run_alone_bit_for_bit(tmp_path, quiet, steps):
    """With a limit of steps some end before others."""
    base = replace(COUNTDOWN, steps=steps, generations=None if steps else 6)
    bases = [base, with_(base, sigma=0.2, rate=0.1, fraction=0.75)]
    runs = list(sweep(bases, seeds=[0, 3], folder=tmp_path / "together", console=quiet))
    ends = {result.rows[-1].generation for _, result in runs}
    assert len(runs) == 4 and (ends == {6} if steps is None else len(ends) > 1)
    for config, result in runs[1:3]:
        single = alone(config, tmp_path, quiet)
        assert left(result) == left(single)
        np.testing.assert_allclose(norms(result), norms(single), rtol=1e-6)


@pytest.mark.slow
def test_and_so_it_is_of_cart_poles(tmp_path, quiet):
    pytest.importorskip("gymnax")
    base = replace(
        COUNTDOWN, task="gymnax/CartPole-v1", policy=PolicyConfig(hidden=(8,)), generations=12
    )
    base = replace(base, optimizer=OptimizerConfig("adam", 0.05))
    runs = list(sweep([base], seeds=range(3), folder=tmp_path / "together", console=quiet))
    for config, result in runs:
        assert left(result) == left(alone(config, tmp_path, quiet))


@pytest.mark.slow
def test_where_a_simulator_sums_in_another_order_returns_differ_by_rounding(tmp_path, quiet):
    """``probe/linear`` multiplies a vector: XLA computes that of a batch in another order."""
    base = replace(SPARSE, generations=1, evaluation=EvaluationConfig(every=1, episodes=2))
    runs = list(sweep([base], seeds=[0, 1], folder=tmp_path / "together", console=quiet))
    for config, result in runs:
        single = alone(config, tmp_path, quiet)
        for one, other in zip(result.rows, single.rows, strict=True):
            assert other.evaluation.mean == pytest.approx(one.evaluation.mean, rel=1e-5)
        for one, other in zip(weights(result), weights(single), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_runs_that_are_cut_off_go_on_though_some_are_behind(tmp_path, quiet, monkeypatch):
    folder, seeds = tmp_path / "cut", [0, 1, 2]
    with monkeypatch.context() as patched:
        interrupt_at(4, patched)
        with pytest.raises(Interrupted):
            list(sweep([COUNTDOWN], seeds=seeds, folder=folder, console=quiet))
    paths = planned([COUNTDOWN], seeds=seeds, folder=folder)
    assert all(len(files(path.folder)[0].splitlines()) == 1 + 4 for path in paths)
    behind = Checkpoints(paths[1].folder / "checkpoints", paths[1], create=False)
    behind._manager.delete(4)
    behind.close()
    runs = list(sweep([COUNTDOWN], seeds=seeds, folder=folder, console=quiet))
    assert [config.seed for config, _ in runs] == seeds
    for config, result in runs:
        assert left(result) == left(alone(config, tmp_path, quiet))
