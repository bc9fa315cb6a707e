"""A run: what it leaves, and that resuming is the run that would have been, bit for bit."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from nesht_jax import load
from nesht_jax.report.rows import read_rows
from nesht_jax.run import generations as generations_module
from nesht_jax.run import train as train_module
from nesht_jax.run.config import Config
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, PolicyConfig, SparsityConfig
from nesht_jax.run.train import train
from nesht_jax.run.yaml import read_config


def bits(state):
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def without_time(rows):
    return [row._replace(seconds=0.0) for row in rows]


@pytest.mark.slow
def test_leaves_a_run_folder(probe_run):
    left = {path.name for path in probe_run.folder.iterdir()}
    assert left == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "learning_curve.png",
        "sensors.png",
        "run.json",
        "policies.npz",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("horizon", "judged", "named"),
    [(5, 10, "population, in shorter episodes"), (10, 10, "population"), (None, 5, "population")],
)
def test_the_curve_says_where_training_has_shorter_episodes(
    probe, quiet, monkeypatch, horizon, judged, named
):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    evaluation = EvaluationConfig(every=4, horizon=judged)
    train(replace(probe, horizon=horizon, evaluation=evaluation), console=quiet)
    _, labels = drawn[0].axes[0].get_legend_handles_labels()
    assert labels[0] == f"{named}, mean ± std"


def test_a_row_a_generation_and_evaluations_on_their_beat(probe_run):
    rows = read_rows(probe_run.folder / "metrics.jsonl")
    assert [row.generation for row in rows] == list(range(13))
    evaluated = [row.generation for row in rows if row.evaluation]
    assert evaluated == [0, 4, 8, 12]
    assert all(row.steps == row.simulated_steps == 256 * 10 for row in rows[1:])


def test_evaluates_the_thresholded_center(probe_run):
    last = probe_run.rows[-1].evaluation
    kept = 21 - 14
    assert last.sparsity == pytest.approx(1 - kept / 21)
    assert len(last.segment_norms) == 4
    assert last.episodes == 10


def test_learns_the_probe(probe_run):
    first, last = (probe_run.rows[i].evaluation for i in (0, -1))
    assert last.low > first.high


def _tasks():
    """What differs from a small common config, by suite."""
    growing = {"horizon": 2, "horizon_growth": 1.5, "horizon_growth_every": 2}
    yield pytest.param({"task": "probe/countdown", **growing}, id="growing horizon")
    noisy = {"algorithm": AlgorithmConfig(num_members=8, action_noise=0.1)}
    yield pytest.param({"task": "envpool/Hopper-v5", **noisy}, id="envpool", marks=pytest.mark.slow)
    seen = PolicyConfig(
        "dqn2013", activation="relu", normalization="virtual_batch", output="sample"
    )
    shown = {"pixel_noise": 3.0, "stack_num": 1, "img_height": 40, "img_width": 40}
    atari = {"task_options": shown, "policy": seen, "distractors": 1, "horizon": 20}
    few = {"algorithm": AlgorithmConfig(num_members=4)}
    yield pytest.param(
        {"task": "envpool/Pong-v5", **atari, **few}, id="atari", marks=pytest.mark.slow
    )
    yield pytest.param(
        {"task": "gymnasium/CartPole-v1", "num_envs": 3, **noisy},
        id="gymnasium",
        marks=pytest.mark.slow,
    )
    slow = {"algorithm": AlgorithmConfig(num_members=2), "horizon": 3}
    yield pytest.param({"task": "gymnax/CartPole-v1", **slow}, id="gymnax", marks=pytest.mark.slow)
    yield pytest.param(
        {"task": "brax/inverted_pendulum", "task_options": {"backend": "spring"}, **slow},
        id="brax",
        marks=[
            pytest.mark.slow,
            pytest.mark.filterwarnings("ignore:Brax System:UserWarning"),
            pytest.mark.filterwarnings("ignore:Accessing .* directly:DeprecationWarning"),
        ],
    )


COMMON = Config(  # with fraction 0.5 it is the program of the tests of sweeps and trackers, too
    task="probe/linear",
    distractors=1,
    algorithm=AlgorithmConfig(num_members=8),
    sparsity=SparsityConfig(fraction=0.8, every=3),
    evaluation=EvaluationConfig(every=4, episodes=3),
    generations=9,
    checkpoint_every=5,
)


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sparsity.fraction .* keeps:UserWarning")
@pytest.mark.simulator
@pytest.mark.parametrize("changes", list(_tasks()))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(changes, tmp_path, quiet):
    """Cut off the beat of evaluations and checkpoints, on purpose."""
    config = replace(COMMON, **changes)
    whole = train(replace(config, out=str(tmp_path / "whole")), console=quiet)
    cut = replace(config, out=str(tmp_path / "cut"), generations=6)
    train(cut, console=quiet)
    resumed = train(replace(cut, generations=9), resume=True, console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    told = {row.generation: row for row in without_time(resumed.rows)}
    told[6] = told[6]._replace(evaluation=None)  # the end of the cut run, off the beat
    assert told == {row.generation: row for row in without_time(whole.rows)}


@pytest.mark.bits
@pytest.mark.slow
def test_the_bits_do_not_depend_on_how_generations_are_grouped(probe, tmp_path, quiet, monkeypatch):
    together = train(probe, console=quiet)
    monkeypatch.setattr(train_module, "MOST_GENERATIONS_A_CALL", 1)
    alone = train(replace(probe, out=str(tmp_path / "alone")), console=quiet)
    assert bits(alone.state) == bits(together.state)


# ------------------------------------------------------------------------------ a budget of steps


BUDGETS = [
    pytest.param({"task": "probe/countdown"}, 600, id="probe"),
    pytest.param({"task": "gymnasium/CartPole-v1", "horizon": 30}, 750, id="gymnasium"),
]
LIMITED = replace(COMMON, sparsity=SparsityConfig(fraction=0.5, every=3), generations=None)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "budget"), BUDGETS)
def test_the_generation_that_reaches_the_budget_is_the_last_and_is_evaluated(
    changes, budget, tmp_path, quiet
):
    out = str(tmp_path / "run")
    done = train(replace(LIMITED, **changes, steps=budget, out=out), console=quiet)
    steps = np.cumsum([row.steps for row in done.rows])
    assert steps[-2] < budget <= steps[-1]
    last = len(done.rows) - 1
    assert [row.generation for row in done.rows] == list(range(last + 1))
    assert last == done.state.generation > 3 and done.interrupted is None
    evaluated = [row.generation for row in done.rows if row.evaluation]
    assert evaluated == sorted({*range(0, last + 1, LIMITED.evaluation.every), last})
    assert (done.folder / "checkpoints" / str(last)).is_dir()
    assert done.rows == read_rows(done.folder / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "generations"), [(240, 3), (241, 4)])
def test_a_budget_is_reached_to_the_step(budget, generations, tmp_path, quiet):
    out = str(tmp_path / "run")
    done = train(replace(LIMITED, steps=budget, out=out), console=quiet)
    assert [row.steps for row in done.rows[1:]] == generations * [80]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "generations", "last"), [(240, 9, 3), (10**12, 3, 3)])
def test_of_steps_and_generations_the_first_limit_ends_a_run(
    steps, generations, last, tmp_path, quiet
):
    out = str(tmp_path / "run")
    limited = replace(LIMITED, steps=steps, generations=generations, out=out)
    done = train(limited, console=quiet)
    assert done.rows[-1].generation == last and done.rows[-1].evaluation


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "budget"), BUDGETS)
def test_a_budget_ends_a_run_the_same_however_generations_are_grouped(
    changes, budget, tmp_path, quiet, monkeypatch
):
    """The budget is reached within a call of many, then at the end of a call of one."""
    calls = []
    made = train_module.make_run_generations

    def counted(*args):
        run_generations = made(*args)
        return lambda state, numbers, left: (
            calls.append(len(numbers)) or run_generations(state, numbers, left)
        )

    monkeypatch.setattr(train_module, "make_run_generations", counted)
    monkeypatch.setattr(train_module, "CALL_SECONDS", 1e6)
    config = replace(LIMITED, **changes, steps=budget, checkpoint_every=50)
    together = train(replace(config, out=str(tmp_path / "together")), console=quiet)
    assert max(calls) >= 4 and sum(calls) > len(together.rows)
    calls.clear()
    monkeypatch.setattr(train_module, "MOST_GENERATIONS_A_CALL", 1)
    alone = train(replace(config, out=str(tmp_path / "alone")), console=quiet)
    assert calls == [1] * len(alone.rows)
    assert bits(alone.state) == bits(together.state)
    assert without_time(alone.rows) == without_time(together.rows)


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.parametrize(("changes", "budget"), BUDGETS)
def test_a_resumed_run_of_more_steps_is_the_uninterrupted_one_bit_for_bit(
    changes, budget, tmp_path, quiet
):
    config = replace(LIMITED, **changes)
    whole = train(replace(config, steps=budget, out=str(tmp_path / "whole")), console=quiet)
    cut = replace(config, steps=budget // 2, out=str(tmp_path / "cut"))
    last = train(cut, console=quiet).rows[-1].generation
    assert 0 < last < whole.rows[-1].generation
    resumed = train(replace(cut, steps=budget), resume=True, console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    told = without_time(resumed.rows)
    if last % cut.evaluation.every:
        assert told[last].evaluation
        told[last] = told[last]._replace(evaluation=None)
    assert told == without_time(whole.rows)


@pytest.mark.slow
def test_a_run_that_has_spent_its_steps_is_done(tmp_path, quiet):
    config = replace(LIMITED, steps=300, out=str(tmp_path / "run"))
    done = train(config, console=quiet)
    for steps in (300, 100):
        again = train(replace(config, steps=steps), resume=True, console=quiet)
        assert again.rows == done.rows and again.interrupted is None
        assert bits(again.state) == bits(done.state)


# ------------------------------------------------------------------------- a function of the user's


@pytest.mark.slow
def test_a_function_gets_the_row_of_every_evaluation(probe, tmp_path, quiet):
    got = []
    told = train(probe, console=quiet, on_evaluation=got.append)
    assert [row.generation for row in got] == [0, 4, 8, 12]
    assert got == [row for row in told.rows if row.evaluation]
    untold = train(replace(probe, out=str(tmp_path / "untold")), console=quiet)
    assert bits(told.state) == bits(untold.state)
    assert without_time(told.rows) == without_time(untold.rows)


@pytest.mark.slow
def test_a_function_is_called_after_log_and_checkpoint(probe, quiet, monkeypatch):
    """However many generations a call could do."""
    monkeypatch.setattr(train_module, "CALL_SECONDS", 1e6)
    weights = []

    def look(row):
        assert read_rows(probe.folder / "metrics.jsonl")[-1] == row
        weights.append(load(probe.folder).reading.weights)
        assert (probe.folder / "checkpoints" / str(row.generation)).is_dir()

    config = replace(probe, evaluation=EvaluationConfig(every=3), checkpoint_every=100)
    done = train(config, console=quiet, on_evaluation=look)
    assert len(weights) == 5
    np.testing.assert_array_equal(weights[-1], done.reading.weights)


@pytest.mark.slow
@pytest.mark.parametrize(("told", "last"), [(True, 0), (np.bool_(True), 4)])
def test_a_function_that_returns_true_ends_a_run_that_can_be_resumed(
    probe, tmp_path, quiet, told, last
):
    def end(row):
        return told if row.generation == last else None

    cut = train(probe, console=quiet, on_evaluation=end)
    assert cut.rows[-1].generation == cut.state.generation == last
    assert cut.interrupted is None and (cut.folder / "sensors.png").exists()
    resumed = train(probe, resume=True, console=quiet)
    whole = train(replace(probe, out=str(tmp_path / "whole")), console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert without_time(resumed.rows) == without_time(whole.rows)


@pytest.mark.slow
def test_a_function_that_returns_anything_else_lets_a_run_go_on(probe, quiet):
    told = iter([None, False, np.bool_(False), 1, "yes"])
    config = replace(probe, evaluation=EvaluationConfig(every=3))
    done = train(config, console=quiet, on_evaluation=lambda row: next(told))
    assert done.rows[-1].generation == 12 and next(told, "all told") == "all told"


@pytest.mark.slow
def test_what_a_function_raises_goes_through_and_the_run_can_be_resumed(
    probe, tmp_path, quiet, monkeypatch
):
    closed = []
    made = train_module.make_evaluate_center

    def watched(*args):
        evaluate, close = made(*args)
        return evaluate, lambda: (closed.append(True), close())

    monkeypatch.setattr(train_module, "make_evaluate_center", watched)

    def fail(row):
        if row.generation == 8:
            raise RuntimeError("mine")

    probe = replace(probe, checkpoint_every=100)
    with pytest.raises(RuntimeError, match="mine"):
        train(probe, console=quiet, on_evaluation=fail)
    assert closed == [True]
    assert (probe.folder / "checkpoints" / "8").is_dir()
    assert read_rows(probe.folder / "metrics.jsonl")[-1].generation == 8
    resumed = train(probe, resume=True, console=quiet)
    whole = train(replace(probe, out=str(tmp_path / "whole")), console=quiet)
    assert bits(resumed.state) == bits(whole.state)


# ------------------------------------------------------------------------------------ run folders


def test_a_result_is_one_sentence_and_in_a_notebook_a_page(probe_run):
    told = repr(probe_run)
    assert told.startswith(f"<Result {probe_run.folder}, probe/linear: return ") and len(told) < 300
    assert str(probe_run) == told and "30,720 steps; reads " in told
    page = probe_run._repr_html_()
    assert page.count('src="data:image/png;base64,') == 2
    assert "<pre>action 0 = " in page and page.startswith("<div><p>probe/linear: return ")


def test_an_existing_folder_is_refused_and_not_touched(probe, tmp_path, quiet):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists; go on with it by --resume"):
        train(probe, console=quiet)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_impossible_config_leaves_no_folder(probe, tmp_path, quiet):
    with pytest.raises(ValueError, match="probe/linear has no options"):
        train(replace(probe, task_options={"a": 1}), console=quiet)
    assert not (tmp_path / "run").exists()


def start(out, *options):
    command = [sys.executable, "-m", "nesht_jax.run.cli", "train", "--task=envpool/Hopper-v5"]
    command += ["--distractors=1", "--algorithm.num_members=8"]
    command += ["--generations=100000", "--checkpoint_every=5"]
    return subprocess.Popen(
        [*command, f"--out={out}", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(rows, metrics, process):
    while not metrics.exists() or len(read_rows(metrics)) < rows:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_leaves_cleanly(tmp_path, number):
    out = tmp_path / "run"
    process = start(out)
    wait_for(8, out / "metrics.jsonl", process)
    process.send_signal(number)
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complaint == b""
    assert f"Stopped by {number.name}".encode() in told
    last = read_rows(out / "metrics.jsonl")[-1].generation
    assert (out / "checkpoints" / str(last)).is_dir()
    assert (out / "learning_curve.png").exists()


@pytest.mark.slow
def test_kill_9_loses_only_what_came_after_the_checkpoint(tmp_path, quiet):
    out = tmp_path / "run"
    process = start(out)
    wait_for(13, out / "metrics.jsonl", process)
    process.kill()
    process.communicate()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 99, "ste')  # a line cut in the middle
    config = replace(read_config(out), generations=20)
    resumed = train(config, resume=True, console=quiet)
    whole = train(replace(config, out=str(tmp_path / "whole")), console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert [row.generation for row in resumed.rows] == list(range(21))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == list(range(21))


@pytest.mark.slow
def test_one_trace_serves_every_number_of_generations(probe, quiet, monkeypatch):
    traces = []
    original = generations_module.make_generation

    def counted(algorithm, evaluate, **options):
        generation = original(algorithm, evaluate, **options)

        def wrapped(state):
            traces.append(state)
            return generation(state)

        return wrapped

    monkeypatch.setattr(generations_module, "make_generation", counted)
    train(probe, console=quiet)
    # eval_shape and the loop body read it once each; both in the one compilation
    assert len(traces) <= 3


@pytest.fixture
def compilations():
    """Names of the functions that JAX traces or compiles, as it does."""
    names = []

    def listen(event, duration, **about):
        if event.endswith(("/backend_compile_duration", "/jaxpr_trace_duration")):
            names.append(about.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sparsity.fraction .* keeps:UserWarning")
@pytest.mark.parametrize("task", ["probe/countdown", "envpool/Hopper-v5"])
def test_a_longer_run_compiles_nothing_more(task, tmp_path, quiet, compilations):
    """Evaluations, checkpoints and calls of several generations included."""
    config = replace(COMMON, task=task, evaluation=EvaluationConfig(every=3), checkpoint_every=7)
    counts = []
    for number, generations in enumerate((9, 9, 40)):
        compilations.clear()
        out = str(tmp_path / str(number))
        train(replace(config, generations=generations, out=out), console=quiet)
        counts.append(len(compilations))
    assert 0 < counts[2] <= counts[1] <= counts[0]


@pytest.mark.slow
def test_another_seed_compiles_nothing_more(probe, tmp_path, quiet):
    """What a run compiles holds nothing of its seed, so that a sweep's seeds share it on disk."""
    compiled = []

    def listen(event, **about):
        compiled.append(event.endswith("/cache_misses"))

    train(replace(probe, generations=1), console=quiet)
    jax.monitoring.register_event_listener(listen)
    train(replace(probe, generations=1, seed=123, out=str(tmp_path / "other")), console=quiet)
    jax.monitoring.unregister_event_listener(listen)
    assert compiled and not any(compiled)


def test_no_training_import_for_who_needs_only_the_functions():
    heavy = "('orbax', 'matplotlib', 'envpool')"
    code = f"import sys, nesht_jax; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
