"""Every script of ``benchmarks/`` tells what it takes; the quick ones write their tables."""

import argparse
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax import make_config
from nesht_jax.run.build import build
from nesht_jax.run.evaluate import restore
from nesht_jax.run.sweep import trained

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = {
    path.stem: path
    for path in sorted(FOLDER.glob("*.py"))
    if "def main" in path.read_text(encoding="utf-8")
}

SMALL = {
    "ceiling": "--tasks probe/linear --num_members 4 --warm_up 1 --rounds 2 --seconds 0.1",
    "convolutions": "--num_members 2 --repeats 1",
    "low_rank": "--widths 32 --ranks 1 --num_envs 2 --num_members 4 --repeats 1",
    "moved": "--task probe/linear --distractors 2 --methods nes --seeds 1 --steps 1e4 --episodes 2 "
    "--runs runs",
    "quickstart": "--steps 3000 --seeds 1 --episodes 2 --runs runs",
    "study": "--tasks probe/linear --distractors 0 2 --kinds slow --methods nes select --seeds 1 2 "
    "--steps 1e4 --episodes 2 --runs runs",
    "selectivity": "probe/linear --distractors 2 --generations 2 --algorithm.num_members 4 "
    "--seeds 1 --episodes 2 --runs runs",
    "share": "--tasks probe/countdown --num_members 8 --masked_steps 2 --repeats 1",
    "threshold": "--sizes 1000 --repeats 2",
    "update": "--methods nesht nesht_tell --sizes 1000 --num_members 8 --repeats 1",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_tells_of_every_option(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    actions = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "print_help", lambda parser: actions.extend(parser._actions)
    )
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPTS[name]))["main"]()
    assert exit_.value.code == 0
    assert actions and [action.dest for action in actions if not action.help] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_case_writes_the_columns_of_the_table(name, tmp_path):
    written, committed = tmp_path / "table.csv", FOLDER / f"{name}.csv"
    command = [sys.executable, SCRIPTS[name], *SMALL[name].split(), "--out", written]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    about, header, *rows = written.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# .*, \d+ cores, .*jax [\d.]+.*, commit \w+", about)
    assert rows and all(row.count(",") == header.count(",") for row in rows)
    old = committed.read_text(encoding="utf-8").splitlines()[1]
    assert set(old.split(",")) <= set(header.split(","))


def test_scores_are_told_at_marks(monkeypatch):
    """At the end of a run that of fresh episodes, before it the last evaluation, never a later."""
    monkeypatch.syspath_prepend(FOLDER)
    reached = runpy.run_path(str(SCRIPTS["scores"]))["reached"]
    common = {"task": "envpool/Swimmer-v4", "seconds": "50"}
    curve = "0:-1 290000:{} 310000:999 500000:998"
    rows = [
        common | {"steps": "504000", "return": str(r), "curve": curve.format(r - 100)}
        for r in (300, 340, 400)
    ]
    rows.append(common | {"steps": "310000", "return": "10", "curve": "0:-1 310000:7"})
    early, late = reached(rows)
    assert (early["million_steps"], early["seeds"], early["published"]) == (0.3, 4, "")
    assert (early["return_median"], early["return_low"]) == (220, -1)
    assert (late["return_median"], late["return_q25"], late["return_q75"]) == (340, 320, 370)
    assert (late["seeds"], late["published"], late["seconds"]) == (3, 350, 50)


def test_published_figures_are_of_games_and_of_robots_of_v4(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    reached = runpy.run_path(str(SCRIPTS["scores"]))["reached"]
    run = {"seconds": "50", "return": "1", "curve": "0:0", "steps": "2e7"}
    rows = reached([run | {"task": f"envpool/{name}-v5"} for name in ("Boxing", "Swimmer")])
    beside = {(row["task"], row["million_steps"]): row["published"] for row in rows}
    assert beside == {
        ("envpool/Boxing-v5", 2.0): "",
        ("envpool/Boxing-v5", 20.0): 75,
        ("envpool/Swimmer-v5", 0.3): "",
        ("envpool/Swimmer-v5", 0.5): "",
    }


def test_the_study_sums_up_what_selection_retains_and_finds(monkeypatch):
    """From where training begins at 0 to NES without distractors at 1; p is against NES."""
    monkeypatch.syspath_prepend(FOLDER)
    summarize = runpy.run_path(str(SCRIPTS["study"]))["summarize"]

    def runs(method, distractors, returns, inputs):
        common = {"task": "envpool/Hopper-v5", "kind": "normal", "steps": 3e6, "curve": "0:100 9:7"}
        common |= {"method": method, "distractors": distractors, "inputs": " ".join(inputs)}
        true = sum(int(i) < 11 for i in inputs)
        common |= {"true_read": true, "distractors_read": len(inputs) - true}
        return [common | {"return": value} for value in returns]

    rows = [
        *runs("nes_fast", "0", [1000, 1200, 1100], "0123"),
        *runs("nes_fast", "10", [300, 200, 100], "0123"),
        *runs("nes", "10", [150, 150, 140], "0123"),
        *runs("select_fast", "0", [800, 900], "0123"),
        *runs("select_fast", "0", [1000], ["4"]),
        *runs("select_fast", "10", [600, 700, 500], ["0", "1", "2", "90"]),
        *runs("ppo", "10", [50, 60], "0123"),
    ]
    told = {(row["method"], row["distractors"]): row for row in summarize(rows)}
    found = told["select_fast", "10"]
    assert found["retained"] == 0.5 and found["retained_low"] < 0.5 < found["retained_high"]
    # Welch's t of [600, 700, 500] and [300, 200, 100]: 400 / sqrt(2 * 1e4 / 3), 4 degrees
    assert found["p_against_nes"] == "0.008"
    assert (found["recall"], found["false_share"]) == (0.75, 0.25)
    assert (found["true_read"], found["distractors_read"], found["seeds"]) == (3, 1, 3)
    assert told["nes_fast", "0"]["retained"] == 1
    assert told["nes_fast", "10"]["p_against_nes"] == ""
    assert (told["ppo", "10"]["retained"], told["ppo", "10"]["p_against_nes"]) == ("", "")


def test_agents_are_told_as_a_share_of_what_dense_ones_gain(monkeypatch):
    """From the untrained policies of both at 0 to the dense agents' return at 100."""
    monkeypatch.syspath_prepend(FOLDER)
    summarize = runpy.run_path(str(SCRIPTS["agents"]))["summarize"]

    def runs(task, method, first, lasts):
        common = {"task": task, "method": method, "steps": 1e5, "seconds": 9}
        return [common | {"last": last, "curve": f"0:{first} 9:7"} for last in lasts]

    rows = [
        *runs("one", "dqn dense", -400, [-90, -100, -110, -900]),
        *runs("one", "dqn set 0.9 erk", -600, [-140, -180, -200, -220]),
        *runs("one", "dqn set 0.9 erk 0.1", -600, [-300]),
        *runs("two", "dqn dense", 0, [50]),
        *runs("two", "dqn set 0.9 erk", 0, [25]),
    ]
    table = summarize(rows)
    told = {(row["task"], row["method"]): row for row in table if not row["actor_share"]}
    (divided,) = (row for row in table if row["actor_share"])
    assert (divided["actor_share"], divided["last_iqm"]) == ("0.1", -300)
    one, both = told["one", "set"], told["all", "set"]
    assert (one["agent"], one["fraction"], one["scope"]) == ("dqn", "0.9", "erk")
    assert (one["last_iqm"], one["worst"], one["best"], one["seeds"]) == (-190, -220, -140, 4)
    # begin -500 and dense -105: 310 of 395
    assert one["percent_of_dense"] == pytest.approx(78.5, abs=0.05)
    assert one["percent_low"] < one["percent_of_dense"] < one["percent_high"]
    assert told["one", "dense"]["percent_of_dense"] == 100
    # shares of all tasks together, .5 and .709 to .911: their middle three
    assert both["percent_of_dense"] == pytest.approx(100 * (320 + 300 + 280) / 3 / 395, abs=0.05)
    assert (both["seeds"], both["last_iqm"]) == (1, "")


@pytest.mark.slow
def test_actor_and_critic_share_what_lives(monkeypatch):
    """Counted in first weights, those that are not 0, beside sizes told by hand."""
    monkeypatch.syspath_prepend(FOLDER)
    settings = runpy.run_path(str(SCRIPTS["agents"]))["settings"]
    options = argparse.Namespace(agent="ppo", scope="erk", steps=None)
    state = build(settings(options, "gymnax/Pendulum-v1", "static", 0.9, 0.25)).state.agent

    def alive(params):
        kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        return sum(int(jnp.count_nonzero(kernel)) for kernel in kernels)

    budget = round(0.1 * 2 * (3 * 64 + 64 * 64 + 64))
    assert alive(state.params) == round(0.25 * budget)
    assert alive(state.rest.critic.params) == budget - round(0.25 * budget)
    # two critics of SAC, which see actions, and an actor of means and deviations
    options = argparse.Namespace(agent="sac", scope="erk", steps=None)
    config = settings(options, "gymnax/Pendulum-v1", "static", 0.9, 0.5)
    sizes = 256 * (3 + 256 + 2), 256 * (4 + 256 + 1)
    kept = (1 - config.sparsity.fraction) * sizes[0], (1 - config.agent.critic_fraction) * sizes[1]
    assert kept[0] == pytest.approx(2 * kept[1], abs=1)
    assert kept[0] + 2 * kept[1] == pytest.approx(0.1 * (sizes[0] + 2 * sizes[1]), abs=2)


def test_scores_of_games_are_of_their_memory(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    settings = runpy.run_path(str(SCRIPTS["scores"]))["settings"]
    named, config = settings("envpool/Pong-v5", 100, 3)
    assert (named, config.task_options, config.seed) == ("defaults", {"observation": "ram"}, 3)
    named, config = settings("envpool/Ant-v4", 100, 3)
    assert (named, config.task_options, config.horizon) == ("tuned", {}, 100)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("scores --tasks envpool/Humanoid-v4", "no marks for envpool/Humanoid-v4; valid are Ant"),
        ("scores --tasks envpool/Hoper-v4", "did you mean envpool/Hopper-v4"),
        ("scores --tasks Ant-v4 --steps 10", "envpool/Ant-v4 is told from 3e+06 steps on, got 10"),
        ("study --tasks probe/linear probe/liner --methods nes", "did you mean probe/linear"),
        ("study --tasks probe/linear --methods nes --steps 0", "steps must be at least 1, got 0"),
        ("moved --task Hoper-v5", "did you mean Hopper-v5"),
        ("search --steps 0", "steps must be at least 1, got 0"),
        ("share --tasks probe/liner", "did you mean probe/linear"),
        ("robustness nowhere", "there is no run folder nowhere"),
        ("agents --fractions 2", "must be in"),
        ("agents --actor_shares 0.5", "agents with critics"),
        ("agents --agent ppo --methods set --actor_shares 1", "must be inside (0, 1), got 1"),
        ("by_name --tasks Hopper-v5 Hoper-v5", "did you mean Hopper-v5"),
        ("quickstart --steps 0", "steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    command, message, monkeypatch, capsys, tmp_path
):
    name, *options = command.split()
    out = ["--out", str(tmp_path / "new.csv")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, *options, *out])
    trainer = importlib.import_module("learning_rows")
    monkeypatch.setattr(trainer, "trained", lambda config: pytest.fail("a run was trained"))
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPTS[name]))["main"]()
    assert exit_.value.code == 2 and message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_all_that_is_known_of_an_input_moves_with_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    move_inputs = runpy.run_path(str(SCRIPTS["moved"]))["move_inputs"]
    out = str(tmp_path / "run")
    config = make_config("probe/linear", "select", distractors=2, generations=2, out=out)
    before = trained(config).state
    move_inputs(config)
    after = restore(config.folder)[1].state
    size = len(before.moments.mean)
    places = np.random.default_rng(0).permutation(size)
    assert len(np.unique(before.moments.mean)) == size
    for one, other in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        moved = one[places] if one.shape[:1] == (size,) else one
        np.testing.assert_array_equal(moved, other)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("probe/linera", "did you mean probe/linear"),
        ("probe/linear --sed 3", "unknown option --sed"),
        ("probe/linear --seed 3", "seeds are given by --seeds"),
        ("probe/linear --sparsity.fraction 2", r"must be in \[0, 1\), got 2"),
    ],
)
def test_bad_input_is_told_in_one_sentence(argv, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", ["selectivity", *argv.split()])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPTS["selectivity"]))["main"]()
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)
