"""Trackers show what ``metrics.jsonl`` holds, against useful steps, and only where asked to."""

import shutil
import struct
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nesht_jax.report.rows import EvaluationRow, Row, read_rows
from nesht_jax.run import track
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, SparsityConfig
from nesht_jax.run.track import GROUPS, PACKAGES, check_installed, scalars
from nesht_jax.run.train import train

SMALL = Config(
    task="probe/linear",
    distractors=1,
    algorithm=AlgorithmConfig(num_members=8),
    sparsity=SparsityConfig(fraction=0.5, every=3),
    evaluation=EvaluationConfig(every=4, episodes=3),
    generations=9,
    checkpoint_every=5,
)


@pytest.fixture
def small(tmp_path):
    return replace(SMALL, out=str(tmp_path / "run"))


@pytest.fixture
def fake(monkeypatch):
    """Puts a package of a few calls in place of a tracker's own; gives the runs it is told of."""

    def put(name):
        runs, module = [], ModuleType(name)

        def init(**options):
            run = SimpleNamespace(options=options, logged=[], finished=0)
            run.log = lambda numbers, step: run.logged.append((step, numbers))
            run.finish = lambda: setattr(run, "finished", run.finished + 1)
            runs.append(run)
            return run

        module.init, module.Error = init, type("Error", (Exception,), {})
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(track, "version", lambda package: "1.0")
        return runs

    return put


def wanted(folder):
    """(steps so far, numbers by tag) of each row of the log."""
    steps, found = 0, []
    for row in read_rows(folder / "metrics.jsonl"):
        steps += row.steps
        found.append((steps, scalars(row)))
    return found


def die_at_5(folder):
    """What ``kill -9`` after generation 9 leaves, had its checkpoint not been written."""
    shutil.rmtree(folder / "checkpoints" / "9")


# --------------------------------------------------------------------------------------- numbers


def test_every_number_of_a_row_has_its_tag():
    assert {*GROUPS} | {"evaluation", "agent"} == {*Row._fields}
    evaluation = EvaluationRow(1.0, None, 0.5, 1.5, 10, 0, 9.0, 0.25, [3.0, 4.0])
    row = Row(7, seconds=0.5, fitness_mean=2.0, skipped=True, steps=80, evaluation=evaluation)
    row = row._replace(agent={"loss": 0.5, "entropy": None})
    told = scalars(row)
    assert told["time/generation"] == 7 and told["time/steps_per_second"] == 160
    assert told["train/fitness_mean"] == 2 and told["train/skipped"] == 1
    assert told["eval/mean"] == 1 and told["eval/sparsity"] == 0.25
    assert (told["eval/segment_norms/0"], told["eval/segment_norms/1"]) == (3, 4)
    assert told["agent/loss"] == 0.5
    assert not {"agent/entropy", "eval/standard_error", "time/frames", "weights/sparsity"} & {*told}


def test_a_row_before_the_clock_ran_has_no_rate():
    assert "time/steps_per_second" not in scalars(Row(0))


# ----------------------------------------------------------------------------------- TensorBoard


def events(folder):
    """The events of a folder of TensorBoard's, in the order in which it reads them."""
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def shown(folder):
    """What TensorBoard shows: a start purges what is at its step or later."""
    found = []
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = [(step, tag, number) for step, tag, number in found if step < event.step]
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def check_shown(folder):
    expected = [(step, tag, x) for step, told in wanted(folder) for tag, x in told.items()]
    found = shown(folder / "tensorboard")
    assert [point[:2] for point in found] == [point[:2] for point in expected]
    assert [point[2] for point in found] == pytest.approx([point[2] for point in expected])


@pytest.mark.slow
def test_tensorboard_shows_the_rows(small, quiet):
    folder = train(replace(small, track="tensorboard"), console=quiet).folder
    check_shown(folder)
    steps = [step for step, tag, _ in shown(folder / "tensorboard") if tag == "time/generation"]
    assert steps == [80 * generation for generation in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_tensorboard_shows_a_resumed_run_once(small, quiet, killed):
    config = replace(small, track="tensorboard")
    folder = train(config, console=quiet).folder
    if killed:
        die_at_5(folder)
    train(replace(config, generations=12), resume=True, console=quiet)
    assert len(wanted(folder)) == 13
    check_shown(folder)


# ----------------------------------------------------------------------- Weights & Biases, trackio


@pytest.mark.slow
@pytest.mark.parametrize(("name", "killed"), [("wandb", True), ("trackio", False)])
def test_a_resumed_run_goes_on_with_its_curves(small, quiet, fake, name, killed):
    runs, config = fake(name), replace(small, track=name)
    folder = train(config, console=quiet).folder
    if killed:
        die_at_5(folder)
    train(replace(config, generations=12), resume=True, console=quiet)
    first, second = runs
    same = {key: value for key, value in first.options.items() if key != "config"}
    assert same == {key: value for key, value in second.options.items() if key != "config"}
    assert same["project"] == "nesht_jax" and same["resume"] == "allow"
    assert same["name"].startswith("run") and first.options["config"]["generations"] == 9
    logged = first.logged + second.logged
    assert all(a < b for (a, _), (b, _) in pairwise(logged))
    assert [without_time(told) for told in logged] == [without_time(t) for t in wanted(folder)]
    assert [run.finished for run in runs] == [1, 1]


def without_time(told):
    """What is the same when a generation is made again."""
    steps, numbers = told
    seconds = ("time/seconds", "time/steps_per_second")
    # the last generation of a sitting is evaluated, on the beat or not
    return steps, {t: x for t, x in numbers.items() if t not in seconds and "eval" not in t}


@pytest.mark.slow
def test_runs_of_one_name_are_told_apart(small, quiet, fake, monkeypatch):
    runs = fake("wandb")
    for begin in ("2026-01-01T00:00:00", "2026-01-01T00:00:01"):
        monkeypatch.setattr("nesht_jax.run.provenance._now", lambda begin=begin: begin)
        folder = train(replace(small, track="wandb", generations=1), console=quiet).folder
        shutil.rmtree(folder)
    assert runs[0].options["id"] != runs[1].options["id"]
    assert runs[0].options["name"] == runs[1].options["name"] == "run"
    assert runs[0].options["dir"] == folder


@pytest.mark.slow
def test_wandb_without_an_account_is_one_sentence(small, fake, capsys, monkeypatch):
    fake("wandb")
    module = sys.modules["wandb"]

    def init(**options):
        raise module.Error("No API key configured.")

    monkeypatch.setattr(module, "init", init)
    options = ["--algorithm.num_members=8", "--generations=2", f"--out={small.out}"]
    assert main(["train", "probe/linear", "--track=wandb", *options]) == 1
    err = capsys.readouterr().err
    assert err == (
        "nesht: wandb does not start: No API key configured. "
        "The run can go on without: --track null\n"
    )
    assert main(["train", f"--resume={small.out}", "--track=null"]) == 0


# -------------------------------------------------------------------------------------- the choice


@pytest.mark.slow
def test_nothing_is_tracked_unless_it_is_asked_for(probe_run):
    assert not {"tensorboard", "wandb"} & {path.name for path in probe_run.folder.iterdir()}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_one_sentence_before_anything_is_written(
    name, small, capsys, monkeypatch
):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(track, "version", missing)
    remedy = f"pip install 'nesht-jax[{name}]'"
    with pytest.raises(ValueError, match="needs") as raised:
        check_installed(name)
    assert remedy in str(raised.value)
    assert main(["train", "probe/linear", f"--track={name}", f"--out={small.out}"]) == 2
    assert remedy in capsys.readouterr().err
    assert not small.folder.exists()


@pytest.mark.slow
def test_a_resumed_run_may_change_how_it_is_tracked(small, quiet, fake):
    folder = train(small, console=quiet).folder
    runs = fake("trackio")
    assert main(["train", f"--resume={folder}", "--track=trackio", "--generations=12"]) == 0
    assert [numbers["time/generation"] for _, numbers in runs[0].logged] == [10, 11, 12]
    assert main(["train", f"--resume={folder}", "--generations=13"]) == 0
    assert main(["train", f"--resume={folder}", "--track=null", "--generations=14"]) == 0
    assert len(runs) == 2
