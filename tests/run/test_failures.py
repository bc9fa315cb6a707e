"""What goes wrong on the way costs an episode or an update, is told, and ends no run."""

import gc
import json
import os
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from nesht_jax import load
from nesht_jax.envs.suite import SimulatorError
from nesht_jax.report.rows import EvaluationRow, Row, finite, from_json, read_rows, to_json
from nesht_jax.run import train as train_module
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.folder import make_folder
from nesht_jax.run.load import TrainedPolicy
from nesht_jax.run.record import Display
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, SparsityConfig
from nesht_jax.run.train import train

SMALL = Config(
    task="gymnasium/bug_tasks:bug/Plain-v0",
    task_options={"disable_env_checker": True},
    algorithm=AlgorithmConfig(num_members=4),
    sparsity=SparsityConfig(fraction=0.5),
    evaluation=EvaluationConfig(every=1, episodes=4),
    generations=2,
    horizon=20,
)


@pytest.fixture(autouse=True)
def bug_tasks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))


def small(name, tmp_path, **changes):
    task, out = f"gymnasium/bug_tasks:bug/{name}-v0", str(tmp_path / "run")
    return replace(SMALL, task=task, out=out, **changes)


def quiet_train(config, **options):
    return train(config, console=Console(file=StringIO()), **options)


# ------------------------------------------------------------------ numbers that are not finite


@pytest.mark.slow
def test_a_run_of_failures_ends_well_and_says_so(tmp_path, monkeypatch, capsys):
    """Every episode of every member and evaluation fails."""
    import bug_tasks

    monkeypatch.setattr(bug_tasks.Plain, "reward", lambda self, action: float("nan"))
    config = small("Plain", tmp_path)
    result = quiet_train(config)
    rows = read_rows(result.folder / "metrics.jsonl")
    assert [row.failed for row in rows[1:]] == [4, 4]
    assert all(row.evaluation.mean is None and row.evaluation.failed == 4 for row in rows)
    np.testing.assert_array_equal(result.state.params["layer0"]["bias"], 0)
    assert (result.folder / "learning_curve.png").exists()
    assert main(["train", f"--resume={result.folder}", "--generations=3"]) == 0
    told = capsys.readouterr().out
    assert "none, 4 of 4 episodes failed" in told and "12 members failed" in told
    assert main(["eval", str(result.folder), "--episodes=2", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["thresholded"]["mean"] is None and scores["thresholded"]["failed"] == 2


@pytest.mark.slow
def test_an_evaluation_is_of_the_episodes_that_did_not_fail(tmp_path):
    result = quiet_train(small("HalfBlind", tmp_path, evaluation=EvaluationConfig(1, 16)))
    evaluations = [row.evaluation for row in result.rows]
    assert all(0 < e.failed < 16 and e.mean == 20.0 for e in evaluations)


def test_rows_survive_numbers_that_json_has_not(tmp_path):
    told = EvaluationRow(float("nan"), float("inf"), 1.0, 2.0, 4, 3, 9.0, 0.5, [1.0, float("nan")])
    row = Row(3, fitness_mean=float("-inf"), evaluation=told)
    back = from_json(to_json(row))
    expected = told._replace(mean=None, standard_error=None, segment_norms=[1.0, None])
    assert back == Row(3, fitness_mean=None, evaluation=expected)
    assert finite({"a": [float("nan"), (1.0,)]}) == {"a": [None, [1.0]]}


# ----------------------------------------------------------------------------- start and resume


@pytest.mark.slow
def test_an_error_of_the_environment_keeps_its_place_and_the_run_goes_on(tmp_path, monkeypatch):
    import bug_tasks

    def breaks(self, action):
        raise ValueError("joint limits must be increasing")

    config = small("Plain", tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(bug_tasks.Plain, "reward", breaks)
        with pytest.raises(SimulatorError, match="joint limits must be increasing"):
            quiet_train(config)
        with pytest.raises(ValueError, match="exists; go on with it by --resume"):
            quiet_train(config)
    resumed = quiet_train(config, resume=True)
    assert [row.generation for row in resumed.rows] == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_dies_before_its_first_checkpoint_starts_anew(probe, tmp_path, monkeypatch):
    with monkeypatch.context() as dying:
        dying.setattr(train_module.Checkpoints, "save", lambda self, state, *, steps: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quiet_train(probe)
    resumed = quiet_train(probe, resume=True)
    assert [row.generation for row in resumed.rows] == list(range(13))


@pytest.mark.slow
def test_a_kill_in_the_first_evaluation_leaves_a_run_to_go_on_with(probe, monkeypatch):
    with monkeypatch.context() as dying:
        dying.setattr(train_module, "_loop", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quiet_train(probe)
    assert (Path(probe.out) / "checkpoints/0").is_dir()
    resumed = quiet_train(probe, resume=True)
    assert [row.generation for row in resumed.rows] == list(range(13))


@pytest.mark.slow
def test_a_lost_log_does_not_turn_a_run_back(finished):
    (finished.folder / "metrics.jsonl").write_text("")
    with pytest.warns(
        UserWarning, match="has lost the rows of 12 generations, the first of them 1"
    ):
        resumed = quiet_train(replace(finished, generations=14), resume=True)
    assert [row.generation for row in resumed.rows] == [13, 14]
    assert resumed.state.generation == 14


@pytest.mark.slow
def test_without_its_log_a_run_ends_by_the_same_steps(probe):
    config = replace(probe, steps=20_000, generations=None)
    done = quiet_train(config).rows[-1].generation
    log = probe.folder / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    with pytest.warns(UserWarning, match=f"lost the rows of {done - 2} generations"):
        assert quiet_train(config, resume=True).state.generation == done


def test_a_damaged_log_is_told_and_kept(finished, capsys):
    log = finished.folder / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], "5", *lines[3:]]) + "\n")
    before = log.read_bytes()
    with pytest.raises(ValueError, match="line 3 of .*metrics.jsonl is damaged"):
        quiet_train(replace(finished, generations=14), resume=True)
    assert main(["train", f"--resume={finished.folder}", "--generations=14"]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert log.read_bytes() == before


def test_of_two_runs_at_once_one_gets_the_folder(probe, tmp_path):
    first, second = (train_module.start(probe) if i == 0 else None for i in range(2))
    assert first is not None and second is None
    with pytest.raises(ValueError, match="exists"):
        make_folder(Path(probe.out), probe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_finished_run_says_so(probe_run, capsys):
    assert main(["train", f"--resume={probe_run.folder}"]) == 0
    told = capsys.readouterr().out
    assert "after 12 generations" in told and "--generations 24" in told


@pytest.mark.slow
def test_a_signal_after_the_last_generation_interrupts_nothing(probe, monkeypatch):
    original = train_module.Metrics.append

    def late(self, row):
        original(self, row)
        if row.generation == 12:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_module.Metrics, "append", late)
    assert quiet_train(probe).interrupted is None


# ------------------------------------------------------------------------------ what is told


@pytest.mark.slow
def test_choices_are_not_played_as_numbers(tmp_path):
    """Two choices, two numbers: the sizes agree, the kinds do not."""
    run = quiet_train(small("HalfBlind", tmp_path)).folder
    other = "gymnasium/bug_tasks:bug/Plain-v0"
    with pytest.raises(ValueError, match="takes numbers as actions, but .* takes choices"):
        evaluate_run(run, episodes=2, task=other)


@pytest.mark.slow
def test_json_is_json_whatever_an_environment_prints(tmp_path, capsys):
    run = quiet_train(small("Talkative", tmp_path)).folder
    capsys.readouterr()
    assert main(["eval", str(run), "--episodes=1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["thresholded"]["standard_error"] is None


@pytest.mark.slow
def test_a_folder_with_marks_of_rich_is_printed_as_it_is(tmp_path, capsys):
    out = str(tmp_path / "(bold) run:smile:")
    small_probe = ["--algorithm.num_members=8", "--generations=1"]
    assert main(["train", "probe/linear", *small_probe, f"--out={out}"]) == 0
    assert f"nesht eval '{out}'" in capsys.readouterr().out
    for name in ("[bold]run", "a\\b"):
        assert main(["train", "probe/linear", *small_probe, f"--out={tmp_path / name}"]) == 2
        assert f"{name} has {name[0 if '[' in name else 1]} in its path" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("out", ["s3://bucket/run", "gs://bucket/run"])
def test_an_address_is_no_run_folder(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "probe/linear", "--generations=1", f"--out={out}"]) == 2
    assert "is an address" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_the_display_has_two_lines_and_no_rate_before_there_is_one():
    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    display = Display(terminal, total=10, by_steps=False, rows=[])
    assert display._rates() == []
    display.update(Row(0, evaluation=EvaluationRow(1.0, None, None, None, 1, 0, 5.0, 0.9, [])))
    assert display._rates() == []
    display.update(Row(1, fitness_mean=1.0, fitness_std=0.0, steps=50, simulated_steps=50))
    assert len(display._rates()) == 1
    display.update(Row(2, fitness_mean=1.0, fitness_std=0.0, steps=50, simulated_steps=90))
    assert display._rates()[-1].startswith("useful share 0.")
    lines = terminal.render_lines(display._two_lines(display._line() * 3))
    assert len(lines) == 2


@pytest.mark.parametrize(("by_steps", "told"), [(True, "step 170/400"), (False, "generation 7/9")])
def test_the_bar_counts_what_ends_the_run(by_steps, told):
    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    total = 400 if by_steps else 9
    display = Display(terminal, total=total, by_steps=by_steps, rows=[Row(0), Row(6, steps=100)])
    display.update(Row(7, steps=70, simulated_steps=70))
    (bar, _) = terminal.render_lines(display._two_lines(display._line()))
    shown = " ".join("".join(segment.text for segment in bar).split())
    assert shown.startswith(told)


@pytest.mark.parametrize(("by_steps", "left"), [(True, "0:00:46"), (False, "0:00:04")])
def test_a_log_tells_the_time_that_is_left(by_steps, left, monkeypatch):
    """At the pace of this sitting: 230 steps, or 2 generations, at 10 in 2 s, or 1 in 2 s."""
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    log = StringIO()
    total = 340 if by_steps else 9
    evaluation = EvaluationRow(1.0, None, None, None, 1, 0, 5.0, 0.9, [])
    before = [Row(0), Row(5, steps=50)]
    display = Display(Console(file=log), total=total, by_steps=by_steps, rows=before)
    display.update(Row(6, steps=50, simulated_steps=50, evaluation=evaluation))
    assert "left" not in log.getvalue()
    display.update(Row(7, steps=10, simulated_steps=10, evaluation=evaluation))
    assert log.getvalue().rstrip().endswith(f"steps/s · {left} left")


# ---------------------------------------------------------------------------- trained policies


def test_a_trained_policy_maps_observations_to_actions(probe_run):
    policy = load(probe_run.folder)
    seen = np.linspace(-1, 1, 20, dtype=np.float32)
    action = policy(seen)
    assert isinstance(action, np.ndarray) and action.shape == (1,)
    np.testing.assert_allclose(policy(jnp.asarray(seen)), action, rtol=1e-6)
    assert sum(int((leaf == 0).sum()) for leaf in policy.params["layer0"].values()) == 14


@pytest.mark.slow
def test_of_choices_a_trained_policy_gives_the_number(tmp_path):
    policy = load(quiet_train(small("HalfBlind", tmp_path)).folder)
    assert policy(np.ones(3, np.float32)) in (0, 1)
    drawn = jax.tree.map(lambda p: jax.random.normal(jax.random.key(3), p.shape), policy.params)
    policy = TrainedPolicy(policy.config, policy.task, policy.policy, drawn, policy.moments)
    many = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    each = [[policy(one) for one in row] for row in many]
    np.testing.assert_array_equal(policy(many), each)
    assert policy.scores(many).shape == (2, 5, 2) and len(np.unique(each)) == 2


@pytest.mark.parametrize("seen", [0.5, np.ones(1), np.ones((20, 2)), np.ones(21)])
def test_an_observation_of_another_size_is_refused(probe_run, seen):
    with pytest.raises(ValueError, match="an observation of probe/linear has 20 features, got"):
        load(probe_run.folder)(seen)


@pytest.mark.parametrize(
    "line",
    [
        '{"generation": "x"}',
        '{"generation": null}',
        '{"generation": 1, "steps": null}',
        '{"generation": 1, "steps": [3]}',
        '{"generation": 1, "agent": {"loss": "x"}}',
        '{"generation": 1, "agent": 3}',
        "[3]",
    ],
)
def test_a_row_of_other_values_is_none(line):
    with pytest.raises(ValueError, match="no row of metrics"):
        from_json(line)


@pytest.mark.parametrize(("name", "value"), [("mean", "x"), ("failed", None), ("mean", [1.0])])
def test_an_evaluation_of_other_values_is_none(name, value):
    told = EvaluationRow(1.0, None, None, None, 3, 0, None, 0.5, [0.1])
    plain = json.loads(to_json(Row(1, evaluation=told, agent={"loss": None})))
    assert from_json(json.dumps(plain)).evaluation == told
    plain["evaluation"][name] = value
    with pytest.raises(ValueError, match="no row of metrics"):
        from_json(json.dumps(plain))


def test_a_log_that_is_no_text_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\xef{"generation": 0}\n')
    with pytest.raises(ValueError, match="metrics.jsonl is damaged: 'utf-8' codec"):
        read_rows(tmp_path / "metrics.jsonl")


# ----------------------------------------------------------------------------- many in one process


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["probe/linear", "gymnasium/CartPole-v1", "envpool/InvertedPendulum-v5"]
)
def test_trainings_leave_no_program_thread_or_file_behind(task, tmp_path):
    config = replace(SMALL, task=task, task_options={}, sparsity=SparsityConfig(fraction=0.5))
    found = []
    for i in range(5):
        quiet_train(replace(config, out=str(tmp_path / str(i))))
        gc.collect()
        counts = [len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd")]
        found.append([*counts, len(jax.devices()[0].client.live_executables())])
    for later in found[3:]:
        more = np.subtract(later, found[2])
        assert (more <= [2, 0, 0]).all(), found  # pools start threads as they need them


# ------------------------------------------------------------------------ the same command again


@pytest.mark.slow
def test_the_same_command_begins_a_run_and_goes_on_with_it(tmp_path, capsys):
    out = tmp_path / "run"
    small_probe = ["train", "probe/linear", "--algorithm.num_members=8", f"--out={out}"]
    command = [*small_probe, "--resume=auto"]
    for generations in (2, 4):
        assert main([*command, f"--generations={generations}"]) == 0
        said = capsys.readouterr().out
        assert ", 8 at once\n" in said
        assert f"If it is cut off: nesht train --resume {out}\n" in said
        rows = read_rows(out / "metrics.jsonl")
        assert [row.generation for row in rows] == list(range(generations + 1))
    assert main([*command, "--generations=4", "--algorithm.sigma=0.3"]) == 2
    assert "holds a run of other settings: algorithm.sigma" in capsys.readouterr().err
    assert main([*small_probe, "--generations=4"]) == 2
    assert "exists; go on with it by --resume" in capsys.readouterr().err
