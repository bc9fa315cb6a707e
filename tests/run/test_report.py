"""What the page of a run tells, against the run."""

import json
import shlex
from dataclasses import replace

import jax
import numpy as np
import pytest

from nesht_jax import hard_threshold, load, train
from nesht_jax.report.rows import evaluations
from nesht_jax.run import report
from nesht_jax.run.cli import Parser, main
from nesht_jax.run.cli.options import add_settings, given_settings
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.fields import differences
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.repeat import command
from nesht_jax.run.report import gather, points_of
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.run.settings import make_config, read_command
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import ZOO


@pytest.fixture(scope="module")
def told(probe_run):
    return gather(probe_run.folder, episodes=30)


@pytest.mark.slow
def test_the_command_trains_the_same_run(told, probe_run):
    nesht, command, task, *options = shlex.split(told.command)
    assert (nesht, command, task) == ("nesht", "train", "probe/linear")
    parser = Parser()
    add_settings(parser)
    config, _ = read_command([task], given_settings(parser.parse_args(options)))
    assert config.digest == read_config(probe_run.folder).digest
    assert config.generations == 12


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("envpool/Hopper-v5",), {}),
        (("nes",), {"task": "envpool/Hopper-v5"}),
        (("envpool/Swimmer-v5", "select"), {"distractors": 3}),
        (("envpool/HalfCheetah-v5",), {"task_options": {"frame_skip": 4}}),
        (("gymnax/Pendulum-v1", "ppo"), {}),
    ],
)
def test_the_command_has_no_tuned_settings_that_the_run_had_not(words, settings):
    """A task that is named alone gets those that are tuned for it."""
    pytest.importorskip("envpool", reason="envpool has no wheel for this machine")
    config = make_config(*words, **settings)
    _, _, task, *options = shlex.split(command(config, generations=7))
    parser = Parser()
    add_settings(parser)
    made, _ = read_command([task], given_settings(parser.parse_args(options)))
    assert set(differences(config, made)) <= {"generations", "steps"}
    assert made.generations == 7


def test_policies_of_the_zoo_tell_a_command_that_makes_their_config():
    parser = Parser()
    add_settings(parser)
    for folder in sorted(ZOO.iterdir()):
        told = json.loads((folder / "card.json").read_text(encoding="utf-8"))["command"]
        _, _, task, *options = shlex.split(told)
        made, _ = read_command([task], given_settings(parser.parse_args(options)))
        assert set(differences(read_config(folder), made)) <= {"generations", "steps", "out"}


def test_changed_are_the_settings_that_are_not_the_defaults(told):
    assert "algorithm.sigma" in told.changed and told.settings["algorithm.sigma"] == "0.1"
    assert "policy.activation" not in told.changed
    assert told.settings["sparsity.exempt_bias"] == "false"


@pytest.mark.slow
def test_the_last_point_is_the_policy_itself(told, probe_run):
    policy = load(probe_run.folder)
    last = told.pruned[-1]
    np.testing.assert_array_equal(last.kernel, policy.params["layer0"]["kernel"])
    assert last.k == sum(int((x != 0).sum()) for x in jax.tree.leaves(_read(policy.params)))
    elsewhere = evaluate_run(probe_run.folder, episodes=200).thresholded
    assert last.score.low - 3 < elsewhere.mean < last.score.high + 3
    assert told.unit == "params" and told.generation == 12


def _read(params):
    return {name: layer for name, layer in params.items() if name != "phantom"}


def test_each_point_keeps_the_largest_weights(told, probe_run):
    params = _read(load(probe_run.folder).params)
    for point in told.pruned:
        kept = hard_threshold(params, point.k)["layer0"]["kernel"]
        np.testing.assert_array_equal(point.kernel, kept)
    means = [point.score.mean for point in told.pruned]
    assert means[-1] > means[0]


@pytest.mark.slow
def test_inputs_are_counted_where_inputs_are_selected(probe, quiet):
    sparsity = SparsityConfig(unit="row", keep=5, every=4)
    folder = train(replace(probe, sparsity=sparsity), console=quiet).folder
    told = gather(folder, episodes=5)
    assert (told.unit, [point.k for point in told.pruned]) == ("inputs", [1, 2, 3, 4, 5])
    for point in told.pruned:
        assert point.kernel is not None and point.kernel.any(1).sum() == point.k


def test_the_weights_are_those_of_the_evaluations(told, probe_run):
    arrays = read_arrays(probe_run.folder)
    assert list(told.kernels) == list(evaluations(probe_run.rows))
    np.testing.assert_array_equal(
        np.stack(list(told.kernels.values())), arrays["params/layer0/kernel"]
    )


@pytest.mark.parametrize(
    ("living", "points"),
    [(0, [1]), (1, [1]), (12, list(range(1, 13))), (200, [1, 2, 3, 4, 7, 11, 18, 29, 47, 76, 124])],
)
def test_points_are_all_of_few_and_spread_over_many(living, points):
    found = points_of(living)
    assert found == points + [200] * (living == 200)
    assert len(found) <= report.MOST_POINTS


def test_the_command_writes_a_page(probe_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(probe_run.folder), "--out", str(page), "--episodes", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (
        out[-2].startswith("After ") and out[-1] == f"{page}: {page.stat().st_size / 1024:.0f} KiB"
    )
    assert out[-2] in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_film_of_the_run_is_in_its_page_or_else_its_robot(probe, quiet, monkeypatch):
    folder = train(replace(probe, generations=4), console=quiet).folder
    monkeypatch.setattr(report, "robot", lambda folder, task: b"still")
    told = gather(folder, episodes=2)
    assert (told.film, told.robot) == ("", "data:image/webp;base64,c3RpbGw=")
    assert gather(folder, episodes=None).robot == ""
    (folder / "film.webp").write_bytes(b"moving")
    told = gather(folder, episodes=2)
    assert (told.film, told.robot) == ("data:image/webp;base64,bW92aW5n", "")


@pytest.mark.slow
def test_several_runs_are_compared(probe_run, probe, quiet, tmp_path, capsys):
    other = train(replace(probe, seed=1), console=quiet).folder
    page = tmp_path / "page.html"
    assert main(["report", str(probe_run.folder), str(other), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "Which did better" in text and "How few" not in text


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_played(
    probe_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("nesht_jax.run.report.gather", None)
    for out, said in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.html", "no folder")):
        assert main(["report", str(probe_run.folder), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_bad_input_is_one_sentence(probe_run, probe, quiet, tmp_path, capsys):
    def complaint(*words):
        assert main(["report", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert complaint(tmp_path / "none") == f"nesht: there is no run folder {tmp_path / 'none'}\n"
    assert "at least 2" in complaint(probe_run.folder, "--episodes", "1")
    assert "unknown option 'episode'; did you mean episodes" in complaint(
        probe_run.folder, "--episode", "1"
    )
    folder = train(replace(probe, generations=4), console=quiet).folder
    (folder / "metrics.jsonl").unlink()
    assert "no evaluation yet" in complaint(folder)
