"""A sweep trains what is missing, goes on with what was cut off, and leaves alone what is done."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from nesht_jax.run.config import AlgorithmConfig, Config, EvaluationConfig, SparsityConfig
from nesht_jax.run.record import Display
from nesht_jax.run.sweep import Interrupted, check, planned, sweep, trained
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
        (3, "NESHT"),
        (5, "NES"),
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


def test_a_run_of_more_generations_is_refused(config, quiet):
    trained(config, console=quiet)
    with pytest.raises(ValueError, match="has 4 generations, more than 2"):
        trained(replace(config, generations=2), console=quiet)


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
    assert [run.folder for run in runs] == [
        result.folder
        for _, result in sweep(
            [SPARSE, DENSE], seeds=[0, 1], folder=tmp_path / "sweep", console=quiet
        )
    ]


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


def test_a_refused_run_of_more_generations_keeps_its_config(config, quiet):
    trained(config, console=quiet)
    before = Path(config.folder, "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="more than 2"):
        trained(replace(config, generations=2), console=quiet)
    assert Path(config.folder, "config.yaml").read_bytes() == before
