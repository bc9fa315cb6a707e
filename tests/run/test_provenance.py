"""What ``run.json`` tells of a run."""

import shlex
import subprocess
import sys
from datetime import datetime

import pytest

from nesht_jax.run import provenance
from nesht_jax.run.provenance import NAME, Sitting, read_sittings


@pytest.mark.slow
def test_a_run_tells_where_it_was_made(probe_run):
    (told,) = read_sittings(probe_run.folder)
    assert (told["from_generation"], told["to_generation"]) == (0, 12)
    assert datetime.fromisoformat(told["begin"]) <= datetime.fromisoformat(told["end"])
    assert told["versions"]["jax"] and told["python"] == sys.version.split()[0]


def test_every_sitting_adds_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "nesht"), "train", "a b"])
    Sitting(tmp_path, generation=0).end(generation=3)
    Sitting(tmp_path, generation=3)
    first, second = read_sittings(tmp_path)
    assert shlex.split(first["command"]) == ["nesht", "train", "a b"]
    assert (first["to_generation"], second["from_generation"]) == (3, 3)
    assert "end" not in second


@pytest.mark.parametrize("text", ["", "{", '{"command": 1}'])
def test_a_damaged_file_ends_no_run(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    Sitting(tmp_path, generation=5)
    assert [told["from_generation"] for told in read_sittings(tmp_path)] == [5]


def test_what_is_no_sitting_is_left_out(tmp_path):
    (tmp_path / "run.json").write_text('[3, {"command": "x"}]', encoding="utf-8")
    assert read_sittings(tmp_path) == [{"command": "x"}]


def test_without_git_or_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.nesht_jax, "__file__", str(tmp_path / "nesht_jax/__init__.py"))
    assert provenance._commit() is None
    (tmp_path / ".git").mkdir()

    def missing(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance._commit() is None
