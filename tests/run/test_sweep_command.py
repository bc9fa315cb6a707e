"""``nesht sweep``: what it makes of several values, what it refuses, what it leaves."""

import csv
import json
import os
import shlex
import signal
from argparse import Namespace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nesht_jax.report.rows import read_rows
from nesht_jax.report.statistics import bootstrap_interval
from nesht_jax.report.sweeps import SweptRun, combinations
from nesht_jax.run import load
from nesht_jax.run.cli import main
from nesht_jax.run.cli.grid import read_grid, read_tuning, split_values
from nesht_jax.run.cli.sweep import _print
from nesht_jax.run.record import Display
from nesht_jax.run.tuning import JOURNAL, Range, check_folder, tune
from nesht_jax.run.yaml import config_of, read_config

SMALL = ["probe/linear", "--algorithm.num_members=8", "--generations=3", "--evaluation.episodes=2"]
SWEPT = [*SMALL, "--distractors=1,2", "--seed=0..1"]


def complaint(capsys, *argv):
    """The one sentence on standard error; nothing else, exit code 2."""
    assert main(["sweep", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nesht: ")
    return err


def grid(*words, **options):
    return read_grid(Namespace(settings=list(words), out="x", json=False, **options))


def table(folder):
    with (folder / "sweep.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    """Every file but the logs of TensorBoard and their bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "tensorboard" not in path.parts}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two values on two seeds; do not change it."""
    folder = tmp_path_factory.mktemp("sweeps") / "mine"
    assert main(["sweep", *SWEPT, f"--out={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", ["0.5"]),
        ("0.5, 0.9,.inf", ["0.5", "0.9", ".inf"]),
        ("0..3", ["0", "1", "2", "3"]),
        ("7..7,-1..0", ["7", "-1", "0"]),
        ("[],[8],[64, 64]", ["[]", "[8]", "[64, 64]"]),
        ("{a: [1, 2], b: 3},{a: 4}", ["{a: [1, 2], b: 3}", "{a: 4}"]),
        ("envpool/Hopper-v5,my_module:My-v0", ["envpool/Hopper-v5", "my_module:My-v0"]),
    ],
)
def test_values_are_split_at_commas_outside_brackets(text, values):
    assert split_values("some.option", text) == values


def test_a_grid_has_every_combination_as_train_makes_it():
    found = grid(
        "probe/linear",
        **{"policy.hidden": "[],[8, 4]", "seed": "3..4", "distractors": "2", "horizon": "null,9"},
    )
    made = [
        config_of(
            {"task": "probe/linear", "distractors": 2, "seed": 0}
            | {"policy": {"hidden": hidden}, "horizon": horizon}
        )
        for hidden in ([], [8, 4])
        for horizon in (None, 9)
    ]
    assert found.bases == made
    assert found.seeds == [3, 4] and found.varied == ["policy.hidden", "horizon"]


def test_of_mappings_of_tasks_and_of_switches_there_may_be_several():
    options = {"optimizer.options": "{momentum: 0.5, nesterov: true},{}"}
    options |= {"task": "Pendulum-v1,probe/linear", "algorithm.mirrored": "true,false"}
    found = grid(**options)
    assert len(found.bases) == 8 and found.seeds == [found.bases[0].seed]
    assert found.bases[0].optimizer.options == {"momentum": 0.5, "nesterov": True}
    assert {config.task for config in found.bases} == {"envpool/Pendulum-v1", "probe/linear"}
    assert sum("tuned" in note for note in found.notes) == 1  # each note once


def test_files_presets_and_their_seed_stand_under_options(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: probe/linear\nseed: 7\ndistractors: 3\n")
    found = grid(str(tmp_path / "mine.yaml"), "nes", **{"optimizer.learning_rate": "0.1,0.2"})
    assert found.seeds == [7] and [c.distractors for c in found.bases] == [3, 3]
    assert {config.sparsity.method for config in found.bases} == {"none"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the folder of the runs, as in --out sweeps/mine"),
        (["--out=x", "--sparsity.fractoin=1,2"], "did you mean sparsity.fraction"),
        (["--out=x", "--lr=0.1,0.2"], "here it is called optimizer.learning_rate"),
        (["--out=x", "--sparsity.fraction=0.5,much"], "must be a number, got 'much'"),
        (["--out=x", "--sparsity.fraction=0..1"], "sparsity.fraction must be in [0, 1), got 1.0"),
        (["--out=x", "--policy.start=zero,ones"], "must be one of normal, zero, got 'ones'"),
        (["--out=x", "--policy.hidden=8,4"], "a list, as [64, 64], got 8"),
        (["--out=x", "--policy.hidden=[8],[4"], "--policy.hidden is not YAML"),
        (["--out=x", "--seed="], "seed has an empty value, in ''"),
        (["--out=x", "--seed=1,,2"], "seed has an empty value, in '1,,2'"),
        (["--out=x", "--horizon=3,"], "horizon has an empty value, in '3,'"),
        (["--out=x", "--seed=4..0"], "a range that goes backwards, 4..0; write 0..4"),
        (["--out=x", "--seed=0..999999999"], "a range of more than 10000 values, 0..999999999"),
        (["--out=x", "--seed=0.5"], "seed must be a whole number, got 0.5"),
        (["--out=x", "--seed=-1..0"], "seed must be at least 0, got -1"),
        (["--out=x", "--seed=0..2,1"], "seed has the same value twice, in 0,1,2,1"),
        (["--out=x", "--sparsity.fraction=0.5,0.50"], "same value twice, in 0.5,0.50"),
        (["--out=x", "--policy.hidden=[8],[ 8 ]"], "policy.hidden has the same value twice"),
        (["--out=x", "--generations=1,2"], "generations takes one value in a sweep, got 1,2: "),
        (["--out=x", "--steps=1e3,1e4"], "steps takes one value in a sweep, got 1e3,1e4: "),
        (["--out=x", "--optimizer.name=sgd,adm"], "there is no optimizer 'adm'; did you mean adam"),
        (["--out=x", "--algorithm.num_members=8,5"], "must be even if mirrored, got 5"),
        (["--out=x", "Hopper-v5"], "one task a run, got probe/linear and Hopper-v5"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    capsys, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(capsys, "probe/linear", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_is_a_run_or_a_file_is_refused(capsys, tmp_path, swept):
    run = next(path.parent for path in swept.glob("*/config.yaml"))
    before = contents(run)
    assert "is itself a run folder" in complaint(capsys, *SWEPT, f"--out={run}")
    assert contents(run) == before
    (tmp_path / "file").write_text("mine")
    assert "File exists" in complaint(capsys, *SWEPT, f"--out={tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed=0"], "holds runs of other settings, as probe-linear-x1-nes-seed1-"),
        (["--algorithm.sigma=0.1"], "holds runs of other settings, as probe-linear-x1-nes-seed0-"),
        (["--generations=2"], "has 3 generations, more than 2"),
        (["--steps=80"], "has more than 80 steps"),
    ],
)
def test_a_folder_of_other_runs_is_refused_and_left_as_it_is(capsys, swept, options, message):
    before = contents(swept)
    assert message in complaint(capsys, *SWEPT, *options, f"--out={swept}")
    assert contents(swept) == before


def test_every_run_is_an_ordinary_run_folder(swept):
    folders = sorted(path.parent for path in swept.glob("*/config.yaml"))
    found = [(c.distractors, c.seed) for c in map(read_config, folders)]
    assert sorted(found) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    policy = load.load(folders[0])
    assert policy(np.zeros(policy.task.num_features, np.float32)).shape == (1,)


def test_the_table_is_what_the_runs_say(swept):
    rows = table(swept)
    assert [(row["distractors"], row["seed"]) for row in rows] == [
        ("1", "0"),
        ("2", "0"),
        ("1", "1"),
        ("2", "1"),
    ]
    for row in rows:
        metrics = read_rows(swept / row["run"] / "metrics.jsonl")
        reading = load.load(swept / row["run"]).reading
        assert metrics[-1].generation == 3 and reading is not None
        assert float(row["return"]) == metrics[-1].evaluation.mean
        assert float(row["standard_error"]) == metrics[-1].evaluation.standard_error
        assert int(row["steps"]) == sum(metric.steps for metric in metrics)
        assert int(row["sensors_read"]) == reading.read[0].sum()
        assert int(row["irrelevant_read"]) == reading.read[1:].sum()
        assert int(row["irrelevant"]) == int(row["distractors"]) * int(row["sensors"])


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_shows_all(capsys, swept):
    before = {path: made for path, made in contents(swept).items() if path.suffix != ".png"}
    assert main(["sweep", *SWEPT, f"--out={swept}"]) == 0
    told = capsys.readouterr().out
    after = contents(swept)
    changed = {path.name for path, made in before.items() if after[path] != made}
    assert changed <= {"run.json"} and "generation 3" not in told
    assert (
        "runs 3 to 4 of 4, side by side: distractors 2; seed 0, 1" in told
        and "probe/linear, 2 seeds" in told
    )
    for value in ("1", "2"):
        returns = [float(r["return"]) for r in table(swept) if r["distractors"] == value]
        low, high = bootstrap_interval([returns], np.mean)
        cells = [f"{np.median(returns):.1f}", f"{np.mean(returns):.1f}", f"{low:.1f} … {high:.1f}"]
        (line,) = (line for line in told.splitlines() if line.split()[:1] == [value])
        irrelevant = 5 * int(value)
        cells += ["5 of 5", f"{irrelevant} of {irrelevant}", "240"]
        assert line.split() == " ".join([value, *cells]).split()
    assert str(swept / "sweep.csv") in told and (swept / "sweep.png").stat().st_size > 10_000


@pytest.mark.slow
def test_json_is_the_rows_and_nothing_else(capsys, swept):
    assert main(["sweep", *SWEPT, f"--out={swept}", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [str(row["return"]) for row in rows] == [row["return"] for row in table(swept)]
    assert [row["distractors"] for row in rows] == [1, 2, 1, 2]
    assert "runs 1 to 2 of 4, side by side: distractors 1; seed 0, 1" in err


@pytest.mark.slow
def test_a_sweep_that_is_cut_off_says_how_to_go_on_and_does(capsys, tmp_path, monkeypatch):
    options = [*SMALL, "--generations=6", "--policy.hidden=[],[4]"]
    argv = ["sweep", *options, f"--out={tmp_path / 'cut'}"]
    shown = Display.update

    def update(self, row):
        shown(self, row)
        if row.generation == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Display, "update", update)
        assert main(argv) == 130
    told = capsys.readouterr().out
    again = f"nesht {shlex.join(argv)}\n"
    assert told.endswith(f"Stopped by SIGINT; go on with the same command: {again}")
    assert [path.name for path in (tmp_path / "cut").iterdir() if path.is_file()] == []
    assert main(argv) == 0
    assert len(table(tmp_path / "cut")) == 2
    whole = tmp_path / "whole"
    assert main([*argv[:-1], f"--out={whole}"]) == 0
    assert table(whole) == table(tmp_path / "cut")


def test_ctrl_c_between_two_runs_is_no_traceback(capsys, tmp_path, monkeypatch):
    def interrupted(batch, *, console):
        raise KeyboardInterrupt

    monkeypatch.setattr("nesht_jax.run.sweep.trained_together", interrupted)
    assert main(["sweep", *SMALL, f"--out={tmp_path / 'cut'}"]) == 130
    assert "go on with the same command" in capsys.readouterr().out


@pytest.mark.slow
def test_more_values_and_generations_are_added(capsys, tmp_path):
    argv = ["sweep", *SMALL, f"--out={tmp_path}"]
    assert main([*argv, "--distractors=1"]) == 0
    assert main([*argv, "--distractors=0..1", "--generations=4"]) == 0
    assert [row["distractors"] for row in table(tmp_path)] == ["0", "1"]
    assert {row["steps"] for row in table(tmp_path)} == {"320"}
    assert "distractors" not in capsys.readouterr().out.split("run 1 of 2")[0]


def test_a_table_that_is_wider_than_the_terminal_keeps_its_numbers_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    runs = [
        SweptRun(
            {"optimizer.learning_rate": rate, "task": "gymnax/CartPole-v1"}, seed, "", [], None
        )
        for rate in (0.0015625, 0.003125)
        for seed in (0, 1)
    ]
    _print(combinations(runs), Path("sweeps/mine"), "two tasks", Console())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    cells = ["gymnax/CartPole-v1", "none", "none", "none", "0"]
    assert ["0.0015625", *cells] in lines and ["0.003125", *cells] in lines


# ------------------------------------------------------------------------------------- searches


def test_a_search_reads_ranges_and_values_and_begins_with_the_given_settings():
    options = {"optimizer.learning_rate": "1e-3..0.1", "policy.start": "normal,zero"}
    options |= {"distractors": "1..3", "sparsity.fraction": "0.2", "seed": "2..3"}
    found = read_tuning(Namespace(settings=["probe/linear"], **options))
    rate, distractors = found.space["optimizer.learning_rate"], found.space["distractors"]
    assert rate == Range(0.001, 0.1) and isinstance(distractors.low, int)
    assert found.seeds == [2, 3] and found.options == {"sparsity.fraction": "0.2"}
    default = config_of({"task": "probe/linear"})
    assert found.first == {
        "optimizer.learning_rate": default.optimizer.learning_rate,
        "policy.start": default.policy.start,
        "distractors": 1,  # of 0 the nearest
    }
    made = found.config(found.first | {"optimizer.learning_rate": 0.05, "policy.start": "normal"})
    assert made.optimizer.learning_rate == 0.05 and made.policy.start == "normal"
    assert made.sparsity.fraction == 0.2


@pytest.mark.parametrize("written", ["{:e}", "{:f}", "{:.10f}"])
def test_a_search_begins_with_the_given_value_however_it_is_written(written):
    rate = config_of({"task": "probe/linear"}).optimizer.learning_rate
    options = {"optimizer.learning_rate": f"0.5,{written.format(rate)}"}
    found = read_tuning(Namespace(settings=["probe/linear"], **options))
    assert found.config(found.first).optimizer.learning_rate == rate


SPACE = {"rate": Range(0.001, 1.0), "kind": ["a", "b"], "size": Range(1, 4)}
FIRST = {"rate": 0.5, "kind": "b", "size": 2}


def searched(folder, trials, cut=None):
    """The settings that were scored, in their order; best at rate 0.1 and kind a."""
    told = []

    def score(number, settings):
        if number == cut:
            raise KeyboardInterrupt
        told.append(settings)
        return -abs(np.log10(settings["rate"]) + 1) - (settings["kind"] == "b")

    tune(folder, SPACE, first=FIRST, trials=trials, searched={"a": 1}, score=score)
    return told


def test_a_search_that_was_cut_off_goes_on_as_if_it_was_not(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "whole").mkdir()
    whole = searched(tmp_path / "whole", 25)
    assert whole[0] == FIRST
    for settings in whole:
        assert 0.001 <= settings["rate"] <= 1 and settings["kind"] in "ab"
        assert settings["size"] in (1, 2, 3, 4)
    near = [abs(np.log10(s["rate"]) + 1) < 0.5 and s["kind"] == "a" for s in whole]
    assert sum(near[15:]) > sum(near[:10])  # it has learned where the best is
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, 25, cut=4)
    assert searched(tmp_path, 12) == whole[:12]
    assert searched(tmp_path, 25) == whole
    check_folder(tmp_path, {"a": 1})
    with pytest.raises(ValueError, match="holds another tuning"):
        check_folder(tmp_path, {"a": 2})


def test_a_journal_that_a_kill_cut_short_is_gone_on_with(tmp_path):
    pytest.importorskip("optuna")
    search = {"first": {"x": 0.5}, "searched": {"space": "x"}, "trials": 2}
    space = {"x": Range(0.0, 1.0)}
    tune(tmp_path, space, **search, score=lambda number, settings: settings["x"])
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    seen = []
    tune(tmp_path, space, **search, score=lambda number, settings: seen.append(number) or 1.0)
    assert seen == [1, 2]
    journal.write_bytes(b"{nothing\n" + whole)
    with pytest.raises(ValueError, match=f"{JOURNAL} is damaged: "):
        check_folder(tmp_path, search["searched"])


def test_a_folder_of_runs_is_no_folder_for_a_search(capsys, swept):
    pytest.importorskip("optuna")
    options = ["--distractors=1..2", f"--out={swept}", "--optuna=2"]
    assert "holds runs of no tuning" in complaint(capsys, *SMALL, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optuna=0", "--seed=0"], "a number of trials, at least 1, got 0"),
        (["--optuna=few"], "a number of trials, at least 1, got few"),
        (["--optuna=3"], "searches options that have a range or several values"),
        (["--optuna=3", "--algorithm.sigma=0.2..0.1"], "a range that goes backwards, 0.2..0.1"),
        (["--optuna=3", "--algorithm.sigma=-1..1"], "algorithm.sigma must be positive"),
        (["--optuna=3", "--policy.start=zero,ones"], "must be one of normal, zero, got 'ones'"),
        (["--optuna=3", "--generations=1..9"], "generations takes one value in a search, got 1..9"),
    ],
)
def test_a_search_that_means_nothing_is_refused(capsys, tmp_path, options, message):
    out = tmp_path / "search"
    assert message in complaint(capsys, "probe/linear", *options, f"--out={out}")
    assert not out.exists()


def test_without_optuna_it_is_told_what_installs_it(capsys, tmp_path, monkeypatch):
    def version(package):
        raise PackageNotFoundError

    monkeypatch.setattr("nesht_jax.run.tuning.version", version)
    options = ["--optuna=2", "--algorithm.sigma=0.1,0.2", f"--out={tmp_path / 'search'}"]
    assert "pip install 'nesht-jax[optuna]'" in complaint(capsys, "probe/linear", *options)


@pytest.mark.slow
def test_trials_are_ordinary_runs_on_every_seed(capsys, tmp_path):
    pytest.importorskip("optuna")
    argv = ["sweep", *SMALL, "--optimizer.learning_rate=0.001..0.1", "--seed=0..1"]
    argv += [f"--out={tmp_path / 'search'}"]
    assert main([*argv, "--optuna=1"]) == 0
    assert main([*argv, "--optuna=2"]) == 0
    rows = table(tmp_path / "search")
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["optimizer.learning_rate"] for row in rows[:2]] == ["0.002", "0.002"]
    for row in rows:
        config = read_config(tmp_path / "search" / row["run"])
        assert config.optimizer.learning_rate == float(row["optimizer.learning_rate"])
    assert "trial 2 of 2: optimizer.learning_rate" in capsys.readouterr().out
    assert (tmp_path / "search" / "sweep.png").stat().st_size > 10_000
