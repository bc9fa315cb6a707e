"""The policies that a run keeps, one an evaluation."""

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from nesht_jax import load, train
from nesht_jax.report.rows import EvaluationRow, Row, best_evaluation, evaluations
from nesht_jax.run import policies
from nesht_jax.run.cli import main
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.policies import NAME, Learned, Policies, best_of, read_arrays
from nesht_jax.types import Moments


def some(generation, value=0.0, size=3):
    params = {"layer0": {"kernel": np.full(size, value, np.float32)}}
    return Learned(generation, 0.5, params, Moments.empty(2))


def row(generation, mean):
    found = EvaluationRow(mean, None, None, None, 10, 0, 1.0, 0.0, [])
    return Row(generation, evaluation=found)


@pytest.mark.slow
def test_the_file_tells_what_the_metrics_tell(probe_run):
    arrays, told = read_arrays(probe_run.folder), evaluations(probe_run.rows)
    assert arrays["generation"].tolist() == list(told) == [0, 4, 8, 12]
    np.testing.assert_array_equal(arrays["return"], [found.mean for found in told.values()])
    np.testing.assert_allclose(arrays["sparsity"], [found.sparsity for found in told.values()])
    kernels = arrays["params/layer0/kernel"]
    assert len(kernels) == 4
    assert not any(np.array_equal(a, b) for a, b in zip(kernels, kernels[1:], strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("generation", [4, 8, 12])
def test_each_is_what_a_run_of_so_many_generations_ends_with(probe, probe_run, quiet, generation):
    result = train(replace(probe, generations=generation), console=quiet)
    kept, ended = load(probe_run.folder, generation), load(result.folder)
    same = jax.tree.map(np.array_equal, (kept.params, kept.moments), (ended.params, ended.moments))
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_a_resumed_run_keeps_the_same(probe, probe_run, quiet):
    train(replace(probe, generations=6), console=quiet)
    cut = read_arrays(train(replace(probe, generations=6), resume=True, console=quiet).folder)
    assert cut["generation"].tolist() == [0, 4, 6]
    # the evaluation that its first end asked for stays, as its row among the metrics does
    resumed = train(replace(probe, generations=12), resume=True, console=quiet)
    found, whole = read_arrays(resumed.folder), read_arrays(probe_run.folder)
    assert found["generation"].tolist() == [0, 4, 6, 8, 12] == list(evaluations(resumed.rows))
    for name, stack in whole.items():
        np.testing.assert_array_equal(np.delete(found[name], 2, axis=0), stack)


def test_what_a_resumed_run_makes_again_is_there_once(tmp_path):
    first = Policies(tmp_path, number=0)
    for generation in (0, 10, 20):
        first.append(some(generation, value=generation), mean=1.0)
    Policies(tmp_path, number=13).append(some(20, value=7), mean=2.0)
    arrays = read_arrays(tmp_path)
    assert arrays["generation"].tolist() == [0, 10, 20]
    assert arrays["params/layer0/kernel"][:, 0].tolist() == [0, 10, 7]


@pytest.mark.slow
def test_a_run_cut_off_before_its_first_update_keeps_its_first_policy(probe, quiet):
    train(probe, console=quiet, on_evaluation=lambda row: True)
    resumed = train(probe, resume=True, console=quiet)
    assert read_arrays(resumed.folder)["generation"].tolist() == list(evaluations(resumed.rows))
    assert not jax.tree.leaves(load(resumed.folder, generation=0).params)[0].any()


def test_a_run_from_the_start_forgets_a_file_that_is_there(tmp_path):
    Policies(tmp_path, number=0).append(some(10), mean=1.0)
    Policies(tmp_path, number=0).append(some(0), mean=1.0)
    assert read_arrays(tmp_path)["generation"].tolist() == [0]


def test_of_large_policies_the_oldest_go_but_not_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "MOST_BYTES", 4 * 4000 + 500)
    kept = Policies(tmp_path, number=0)
    for generation, mean in enumerate([1.0, 9.0, 2.0, None, 3.0, 4.0]):
        kept.append(some(generation, size=1000), mean=mean)
    assert read_arrays(tmp_path)["generation"].tolist() == [1, 3, 4, 5]
    assert (tmp_path / NAME).stat().st_size < 2 * policies.MOST_BYTES


@pytest.mark.parametrize(
    ("means", "best"),
    [([1.0, 3.0, 2.0], 1), ([3.0, 3.0, 2.0], 1), ([None, -5.0, None], 1), ([None, None], None)],
)
def test_the_best_is_the_highest_mean_and_the_last_of_equals(means, best):
    found = best_evaluation([row(i, mean) for i, mean in enumerate(means)])
    assert (found and found[0]) == best
    returns = np.array([math.nan if mean is None else mean for mean in means])
    assert best_of(returns) == (len(means) - 1 if best is None else best)


@pytest.mark.slow
def test_the_best_is_loaded_evaluated_and_printed(probe_run, capsys):
    arrays = read_arrays(probe_run.folder)
    best = int(arrays["generation"][np.argmax(arrays["return"])])
    kernel = load(probe_run.folder, "best").params["layer0"]["kernel"]
    np.testing.assert_array_equal(
        kernel, arrays["params/layer0/kernel"][np.argmax(arrays["return"])]
    )
    score = evaluate_run(probe_run.folder, episodes=5, generation="best")
    assert (score.generation, score.center) == (best, None)
    assert main(["eval", str(probe_run.folder), "--generation", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["generation"], told["center"]) == (0, None)
    assert told["thresholded"]["mean"] < score.thresholded.mean


def test_the_last_evaluation_is_the_newest_checkpoint(probe_run):
    newest = evaluate_run(probe_run.folder, episodes=5)
    kept = evaluate_run(probe_run.folder, episodes=5, generation=12)
    assert newest.thresholded == kept.thresholded
    assert newest.thresholded_sparsity == pytest.approx(kept.thresholded_sparsity)
    assert newest.center is not None


def test_without_checkpoints_the_best_is_loaded(finished):
    folder = finished.folder
    best = load(folder, "best").params
    (folder / "checkpoints").rename(folder / "elsewhere")
    same = jax.tree.map(np.array_equal, load(folder).params, best)
    assert all(jax.tree.leaves(same))


def test_what_is_not_kept_is_refused_in_one_sentence(probe_run, capsys):
    command = ["eval", str(probe_run.folder), "--generation"]
    best = int(read_arrays(probe_run.folder)["generation"][-1])
    assert main([*command, "5"]) == 2
    assert capsys.readouterr().err == (
        f"nesht: {probe_run.folder} keeps no policy of generation 5: the nearest that it has are "
        f"0, 4, 8; the best is {best}\n"
    )
    for command in ("eval", "render", "export"):
        assert main([command, str(probe_run.folder), "--generation", "last"]) == 2
        assert "must be a whole number, or best, got 'last'" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["missing", "truncated", "pickled", "foreign", "uneven"])
def test_a_damaged_file_is_refused_in_one_sentence(finished, harm):
    folder = finished.folder
    path, arrays = folder / NAME, read_arrays(folder)
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif harm == "pickled":
        np.savez(path, **arrays | {"return": np.array([{}, {}], object)})
    elif harm == "foreign":
        np.savez(path, **arrays | {"params/layer0/kernel": np.zeros((4, 3, 3), np.float32)})
    else:
        np.savez(path, **arrays | {"return": arrays["return"][:1]})
    with pytest.raises(ValueError, match=NAME) as caught:
        load(folder, "best")
    assert "\n" not in str(caught.value)
    load(folder)  # the checkpoint is whole


@pytest.mark.slow
def test_a_damaged_file_is_refused_before_a_run_goes_on(finished, capsys):
    folder = finished.folder
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:-40])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(["train", "--resume", str(folder), "--generations", "16"]) == 2
    assert capsys.readouterr().err.endswith("; move it away to go on without\n")
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    path.unlink()
    assert main(["train", "--resume", str(folder), "--generations", "16"]) == 0
    assert read_arrays(folder)["generation"].tolist() == [16]
