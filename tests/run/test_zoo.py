"""The trained policies that come with the package."""

import json

import numpy as np
import pytest

from nesht_jax import load
from nesht_jax.report.rows import evaluations, read_rows
from nesht_jax.run.cli import main
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.zoo import ZOO, cards, default_out, run_folder

NAMES = list(cards())


def test_there_are_some_and_each_is_kilobytes():
    assert "hopper" in NAMES
    for name in NAMES:
        assert sum(path.stat().st_size for path in (ZOO / name).iterdir()) < 64 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_what_its_policy_is(name):
    card, policy = cards()[name], load(ZOO / name)
    assert policy.reading is not None
    assert (card.task, card.distractors) == (policy.config.task, policy.config.distractors)
    assert card.policy == policy.reading.verdict()
    assert card.weights == np.count_nonzero(policy.reading.weights)
    assert card.seed == policy.config.seed
    rows = read_rows(ZOO / name / "metrics.jsonl")
    assert card.steps == sum(row.steps for row in rows)
    kept, told = read_arrays(ZOO / name), evaluations(rows)
    best = kept["return"].max()
    assert best >= max(found.mean or -np.inf for found in told.values())
    assert card.low < card.mean < card.high


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("name", NAMES)
def test_a_policy_earns_what_its_card_says(name):
    """On resets that the card did not see."""
    card = cards()[name]
    found = evaluate_run(ZOO / name, episodes=30, seed=1).thresholded
    reach = 2 * ((card.high - card.low) + (found.high - found.low))
    assert abs(found.mean - card.mean) < reach + 0.05 * abs(card.mean)


def test_the_table_and_its_json(capsys):
    assert main(["zoo"]) == 0
    out = capsys.readouterr().out
    assert all(f"zoo/{name}" in out for name in NAMES)
    assert main(["zoo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in told] == [f"zoo/{name}" for name in NAMES]
    assert told[0]["mean"] == cards()[NAMES[0]].mean


@pytest.mark.slow
@pytest.mark.simulator
def test_commands_take_an_entry_and_leave_it_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in (ZOO / "hopper").iterdir()}
    assert main(["export", "zoo/hopper"]) == 0
    assert main(["eval", "zoo/hopper", "--episodes", "2"]) == 0
    assert f"reads {cards()['hopper'].policy.removeprefix('reads ')}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["hopper_policy.py"]
    assert {path.name for path in (ZOO / "hopper").iterdir()} == before


def test_names(tmp_path, monkeypatch):
    assert run_folder("runs/mine").as_posix() == "runs/mine"
    assert run_folder("zoo/hopper") == ZOO / "hopper"
    assert default_out(tmp_path, "film.webp") == tmp_path / "film.webp"
    assert default_out(ZOO / "hopper", "film.webp").as_posix() == "hopper_film.webp"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo" / "hopper").mkdir(parents=True)
    assert run_folder("zoo/hopper").as_posix() == "zoo/hopper"  # a folder of the user's own


def test_an_unknown_entry_is_refused_in_one_sentence(capsys):
    for command in ("eval", "report", "render", "export"):
        assert main([command, "zoo/hoper"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("nesht: there is no zoo/hoper; did you mean hopper")
        assert error.count("\n") == 1


def test_it_cannot_be_trained_further(capsys):
    assert main(["train", "--resume", str(ZOO / "hopper")]) == 2
    assert "checkpoint" in capsys.readouterr().err
