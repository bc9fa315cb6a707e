"""What is saved is read back as it was, or refused; what is damaged is named, nothing deleted."""

import random
import shutil
import warnings
from contextlib import closing
from dataclasses import replace
from operator import attrgetter

import jax
import numpy as np
import pytest
from test_masks import METHODS
from test_search import SEARCHES
from test_train import bits

from nesht_jax.run.build import build
from nesht_jax.run.checkpoint import Checkpoints, digest
from nesht_jax.run.cli import main
from nesht_jax.run.evaluate import restore
from nesht_jax.run.record import Metrics
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SparsityConfig,
)
from nesht_jax.run.train import train
from nesht_jax.run.yaml import dump, read_config


def files_of(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def flip_a_bit(path, rnd):
    content = bytearray(path.read_bytes())
    content[rnd.randrange(len(content))] ^= 1 << rnd.randrange(8)
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:5])


# ---------------------------------------------------------------------------------- the digest


def test_the_digest_sees_every_value_name_and_shape():
    state = {"a": np.arange(6, dtype=np.float32), "b": np.int32(3)}
    others = [
        ({"a": np.arange(6, dtype=np.float32), "b": np.int32(4)}, 1, "x"),
        ({"a": np.arange(6, dtype=np.int32), "b": np.int32(3)}, 1, "x"),
        ({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(3)}, 1, "x"),
        ({"c": np.arange(6, dtype=np.float32), "b": np.int32(3)}, 1, "x"),
        ({"a": -np.zeros(6, np.float32), "b": np.int32(3)}, 1, "x"),
        ({"a": np.zeros(6, np.float32), "b": np.int32(3)}, 1, "x"),
        (state, 1, "y"),
        (state, 2, "x"),
        (state, 1),
    ]
    made = [digest(state, 1, "x"), *(digest(*other) for other in others)]
    assert len({*made}) == len(made)
    assert digest(jax.tree.map(jax.numpy.asarray, state), 1, "x") == made[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SEARCHES, *METHODS])
def test_every_kind_of_state_comes_back_from_a_checkpoint(name, tmp_path):
    config = (SEARCHES | METHODS)[name]
    state = build(config).state
    other = build(replace(config, seed=1)).state
    with closing(Checkpoints(tmp_path, config, create=True)) as checkpoints:
        checkpoints.save(state, steps=2**40)
        saved = checkpoints.restore(other)
        assert bits(saved.state) == bits(state) != bits(other) and saved.steps == 2**40
        checkpoints.check(state)
        with pytest.raises(OSError, match="does not read back as it was"):
            checkpoints.check(other)


# ------------------------------------------------------------------------- damage, and what helps


@pytest.mark.slow
def test_no_flipped_bit_is_loaded(probe, quiet):
    """Of 60 flips where the newest checkpoint has its arrays none gives a state never saved."""
    # arrays above a kilobyte, which lie in files of their own that Orbax has no checksum of
    finished = replace(probe, policy=replace(probe.policy, hidden=(32,)))
    train(finished, console=quiet)
    folder = finished.folder / "checkpoints"
    _, experiment = restore(finished.folder)
    newest = experiment.state
    (finished.folder / "whole").mkdir()
    whole = shutil.copytree(folder, finished.folder / "whole" / "checkpoints")
    shutil.rmtree(folder / "12")
    _, older = restore(finished.folder)
    rnd = random.Random(0)
    found = []
    for _ in range(60):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        arrays = [p for p in (folder / "12").rglob("d/*") if _size(p) > 600]
        flip_a_bit(rnd.choice(arrays), rnd)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            state = restore(finished.folder)[1].state
        if bits(state) == bits(newest):
            found.append("unharmed")
        else:
            assert bits(state) == bits(older.state)
            assert any("12 in" in str(w.message) and "10 is used" in str(w.message) for w in told)
            found.append("older")
    assert {*found} == {"unharmed", "older"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default:checkpoint 12:UserWarning")  # the command line prints it
@pytest.mark.parametrize("harm", ["cut", "bit", "metadata", "emptied"])
def test_a_run_goes_on_from_the_older_checkpoint(finished, quiet, harm, tmp_path, capsys):
    """To the bits of a run that nothing happened to; the damaged one is kept beside."""
    damaged = finished.folder / "checkpoints" / "12"
    if harm == "cut":
        for path in [p for p in damaged.rglob("*") if p.is_file() and p.stat().st_size > 10]:
            cut(path)
    elif harm == "bit":
        largest = max((p for p in (damaged / "default").rglob("*") if p.is_file()), key=_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 4
        largest.write_bytes(bytes(content))
    elif harm == "metadata":
        (damaged / "_CHECKPOINT_METADATA").unlink()
    else:
        for path in [p for p in damaged.rglob("*") if p.is_file()]:
            path.unlink()
    before = files_of(damaged)
    assert main(["eval", str(finished.folder), "--episodes=2"]) == 0
    told = capsys.readouterr().err
    assert "checkpoint 12 in" in told and "that of generation 10 is used" in told
    assert ("it has no digest" in told) == (harm in ("metadata", "emptied"))
    assert files_of(damaged) == before
    config = replace(finished, generations=14)
    with pytest.warns(UserWarning, match="checkpoint 12 in .* that of generation 10 is used"):
        resumed = train(config, resume=True, console=quiet)
    whole = train(replace(config, out=str(tmp_path / "whole")), console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert [row.generation for row in resumed.rows] == list(range(15))
    kept = files_of(damaged.with_name("12.damaged"))
    assert [*kept.values()] == [*before.values()]
    assert train(config, resume=True, console=quiet).state.generation == 14


def _size(path):
    return path.stat().st_size


@pytest.mark.slow
def test_where_every_checkpoint_is_damaged_the_newest_is_named(finished, quiet):
    for path in (finished.folder / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 10:
            cut(path)
    before = files_of(finished.folder)
    with pytest.raises(ValueError, match="checkpoint 12 in"):
        train(replace(finished, generations=20), resume=True, console=quiet)
    assert files_of(finished.folder) == before


def test_without_any_checkpoint_a_run_is_refused(finished, quiet):
    shutil.rmtree(finished.folder / "checkpoints")
    before = files_of(finished.folder)
    with pytest.raises(ValueError, match="no checkpoint in"):
        train(replace(finished, generations=20), resume=True, console=quiet)
    assert files_of(finished.folder) == before


# -------------------------------------------------------------------------- whose config it is


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "changes"),
    [
        (None, {"seed": 1}),
        (None, {"distractors": 4}),
        (None, {"checkpoint_every": 6}),
        ("algorithm", {"sigma": 0.2}),
        ("algorithm", {"num_members": 128}),
        ("sparsity", {"fraction": 0.6}),
        ("optimizer", {"learning_rate": 0.2}),
        ("policy", {"hidden": (7,)}),
        ("policy", {"output": "tanh"}),
        ("evaluation", {"every": 3}),
    ],
)
def test_an_edited_config_is_told_by_name(finished, capsys, section, changes):
    kinds = AlgorithmConfig, SparsityConfig, OptimizerConfig, PolicyConfig, EvaluationConfig
    if section is None:
        edited, (name,) = replace(finished, **changes), changes
    else:
        part = attrgetter(section)(finished)
        assert isinstance(part, kinds)
        edited = replace(finished, **{section: replace(part, **changes)})
        name = f"{section}.{next(iter(changes))}"
    (finished.folder / "config.yaml").write_text(dump(replace(edited, out=None)))
    before = files_of(finished.folder)
    for command in (["train", "--resume"], ["eval"]):
        assert main([*command, str(finished.folder)]) == 2
        told = capsys.readouterr().err
        assert told.endswith(f"than config.yaml of its run: they differ in {name}\n")
    assert files_of(finished.folder) == before


def test_a_lost_line_of_the_config_is_no_default(finished, capsys):
    path = finished.folder / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if "learning_rate: 0.1" not in line]
    path.write_text("\n".join(lines))
    assert read_config(finished.folder).optimizer.learning_rate != 0.1
    assert main(["train", "--resume", str(finished.folder), "--generations=14"]) == 2
    assert "differ in optimizer.learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_more_generations_are_the_same_config(finished, quiet):
    train(replace(finished, generations=13), resume=True, console=quiet)
    assert (
        train(replace(finished, generations=14), resume=True, console=quiet).state.generation == 14
    )


# ------------------------------------------------------------------- a folder that goes, and links


@pytest.mark.slow
@pytest.mark.parametrize("what", ["folder", "renamed", "metrics.jsonl"])
def test_a_folder_that_goes_ends_the_run(probe, quiet, monkeypatch, what):
    original = Metrics.append

    def harm(self, row):
        original(self, row)
        if row.generation == 4:
            if what == "folder":
                shutil.rmtree(probe.folder)
            elif what == "renamed":
                probe.folder.rename(probe.folder.with_name("other"))
            else:
                (probe.folder / what).unlink()

    monkeypatch.setattr(Metrics, "append", harm)
    with pytest.raises(OSError):
        train(probe, console=quiet)
    if what != "metrics.jsonl":
        assert not (probe.folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_log_that_went_is_told_on_the_command_line(tmp_path, monkeypatch, capsys):
    out, original = tmp_path / "run", Metrics.append

    def harm(self, row):
        original(self, row)
        (out / "metrics.jsonl").unlink(missing_ok=True)

    monkeypatch.setattr(Metrics, "append", harm)
    command = ["train", "probe/linear", "--algorithm.num_members=8", "--generations=20"]
    assert main([*command, f"--out={out}"]) == 1
    assert "metrics.jsonl or its folder was moved or removed" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_saved_is_read_back_before_a_run_ends_well(probe, quiet, monkeypatch):
    original = Checkpoints.save

    def harm(self, state, *, steps):
        original(self, state, steps=steps)
        for path in (probe.folder / "checkpoints" / "12").rglob("*"):
            if path.is_file() and path.stat().st_size > 10:
                cut(path)

    monkeypatch.setattr(Checkpoints, "save", harm)
    with pytest.raises(OSError, match="what was saved does not read back: checkpoint 12 in"):
        train(probe, console=quiet)


@pytest.mark.parametrize("name", ["metrics.jsonl", "learning_curve.png", "checkpoints/12/precious"])
def test_links_out_of_a_run_are_not_followed(finished, tmp_path, capsys, name):
    precious = tmp_path / "precious"
    precious.write_text("thesis")
    link = finished.folder / name
    link.unlink(missing_ok=True)
    link.symlink_to(precious)
    for command in (["train", "--resume"], ["eval"]):
        assert main([*command, str(finished.folder)]) == 2
        assert f"{link} is a link out of the run folder" in capsys.readouterr().err
    assert precious.read_text() == "thesis"
    link.unlink()
    link.symlink_to(finished.folder / "config.yaml")
    read_config(finished.folder)
