"""A training run: generations, evaluations, checkpoints, until done or asked to stop.

``prepared`` refuses bad input and writes nothing; ``start`` makes the run folder, too; ``Run.go``
trains; ``train`` is all of them.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from nesht_jax.es.nes import State
from nesht_jax.policy.policy import segment_norms
from nesht_jax.report import figures, notebook
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import Row, read_rows
from nesht_jax.report.wiring import Proposed, Wiring, search_picture, wiring_picture
from nesht_jax.run.ambient import pinned
from nesht_jax.run.architecture import edge_frequency
from nesht_jax.run.build import Experiment, build, build_training
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import make_evaluate_center, projected
from nesht_jax.run.generations import (
    MOST_GENERATIONS_A_CALL,
    MOST_STEPS,
    RunGenerations,
    make_run_generations,
)
from nesht_jax.run.interrupt import Stop, stop_signals
from nesht_jax.run.policies import Learned, Policies, read_arrays
from nesht_jax.run.provenance import Sitting
from nesht_jax.run.reading import reading, size_in_words, wiring
from nesht_jax.run.record import Display, Metrics
from nesht_jax.run.robot import NAME as ROBOT
from nesht_jax.run.robot import robot
from nesht_jax.run.track import check_installed
from nesht_jax.run.yaml import dump, write
from nesht_jax.types import HostEvaluate, Params

CALL_SECONDS = 0.5
"""A compiled call is lengthened while it takes less: it delays the display and Ctrl-C."""

OnEvaluation = Callable[[Row], object]
"""What takes the row of each evaluation: ``True`` ends the run there, anything else does not."""


class Result(NamedTuple):
    """What a run came to.

    A notebook shows it as one sentence, the law of the policy and the pictures.

    Attributes:
        folder: run folder, where everything lies.
        config: config of the run.
        state: state after the last generation; ``state.params`` is the center.
        rows: metrics, one row a generation; row 0 is the evaluation before the first.
        interrupted: signal that ended the run early, if one did.
        reading: what the policy reads, as sparse as its method makes it; None of images.
        size: what the policy takes to write down, in words; empty where it is as large as usual.
    """

    folder: Path
    config: Config
    state: State
    rows: list[Row]
    interrupted: Signals | None
    reading: Reading | None = None
    size: str = ""

    def __repr__(self) -> str:
        return f"<Result {self.folder}, {self._sentence()}>"

    def _repr_html_(self) -> str:
        return notebook.fragment(self._sentence(), self.reading, self.folder)

    def _sentence(self) -> str:
        return notebook.sentence(self.config.task, self.rows, self.reading)


def train(
    config: Config,
    *,
    resume: bool = False,
    console: Console | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> Result:
    """Trains as the config says, and leaves a run folder.

    Args:
        config: everything about the run.
        resume: whether to go on from the newest checkpoint of ``config.folder``: the result is
            bit-identical to that of an uninterrupted run.
        console: console for progress; standard output if None.
        on_evaluation: function that is called after each evaluation, that of row 0 included, with
            the row of its generation, once the row is logged and a checkpoint of that generation is
            saved: ``load(config.folder)`` is the policy that was evaluated. If it returns True the
            run ends there, and can be resumed. What it raises goes through: the run can be resumed
            then, too, and the simulators are closed.

    Raises:
        ValueError: in one sentence, before anything is written, if the config is impossible, the
            run folder exists (or does not, for ``resume``), or its checkpoint cannot be read.
        SimulatorError: if the environment itself raises while it is played.
    """
    return start(config, resume=resume).go(console or Console(), on_evaluation=on_evaluation)


class Run:
    """A run that is ready to train; made by ``prepared``."""

    def __init__(
        self,
        config: Config,
        experiment: Experiment,
        policies: Policies,
        run_generations: RunGenerations,
        close: Callable[[], object],
    ) -> None:
        self._config, self._experiment, self._policies = config, experiment, policies
        self._run_generations, self.close = run_generations, close
        self._projected = jax.jit(partial(projected, experiment))
        self._edges = None
        if experiment.search is not None and config.search.space:
            self._edges = jax.jit(partial(edge_frequency, config, experiment.search))

    @pinned()
    def go(self, console: Console, *, on_evaluation: OnEvaluation | None = None) -> Result:
        """Trains to the end, or until a signal or the function asks to stop; see ``train``."""
        config, folder = self._config, self._config.folder
        with ExitStack() as stack:
            stack.callback(self.close)
            stop = stack.enter_context(stop_signals())
            checkpoints = Checkpoints(folder / "checkpoints", create=True)
            stack.callback(checkpoints.close)
            state = self._experiment.state
            # with checkpoint 0 a run that dies before its first evaluation can be resumed
            checkpoints.save(state)
            sitting = Sitting(folder, generation=int(state.generation))
            metrics = Metrics(config, generation=int(state.generation))
            stack.callback(metrics.close)
            by_steps = config.generations is None
            total = config.step_limit if by_steps else config.generations
            display = Display(console, total=total, by_steps=by_steps, rows=metrics.rows)
            with display:
                parts = checkpoints, metrics, display, stop
                state, done = self._loop(state, *parts, on_evaluation)
            sitting.end(generation=int(state.generation))
        params, _ = projected(self._experiment, state)
        reads = reading(config, self._experiment.task, self._experiment.policy, params)
        interrupted = None if done else stop.asked
        wires = wiring(config, self._experiment.task, self._experiment.policy, params)
        words = size_in_words(config, self._experiment.policy, params) if wires else ""
        result = Result(folder, config, state, metrics.rows, interrupted, reads, words)
        _draw(config, self._experiment, result, params)
        if wires is not None:
            _draw_search(config, result, wires)
        return result

    def _loop(
        self,
        state: State,
        checkpoints: Checkpoints,
        metrics: Metrics,
        display: Display,
        stop: Stop,
        on_evaluation: OnEvaluation | None,
    ) -> tuple[State, bool]:
        """The state at the end, and whether all is done."""
        config = self._config
        left = (config.step_limit or math.inf) - sum(row.steps for row in metrics.rows)
        generation = int(state.generation)
        # the state alone says where to go on; row 0, the evaluation before training, may be missing
        number = generation + 1 if generation or metrics.rows else 0
        beats = config.checkpoint_every, config.evaluation.every
        calls = 1
        while number <= config.last_generation and left > 0 and not stop.asked:
            most = min(calls, *(1 + -number % beat for beat in beats))
            end = min(config.last_generation, number + most - 1)
            budget = int(min(left, MOST_STEPS))
            started = time.monotonic()
            state, rows = self._run_generations(state, range(number, end + 1), budget)
            seconds = (time.monotonic() - started) / len(rows)
            calls = max(1, min(MOST_GENERATIONS_A_CALL, int(CALL_SECONDS / seconds), 2 * calls))
            for row in rows:
                metrics.append(row._replace(seconds=seconds))
                display.update(metrics.rows[-1])
            if (evaluation := rows[-1].evaluation) is not None:
                self._policies.append(self._learned(state), mean=evaluation.mean)
            end, left = rows[-1].generation, left - sum(row.steps for row in rows)
            if end and end % config.checkpoint_every == 0:
                checkpoints.save(state)
            number = end + 1
            if on_evaluation is not None and rows[-1].evaluation is not None:
                checkpoints.save(state)
                if _is_true(on_evaluation(metrics.rows[-1])):
                    break
        checkpoints.save(state)
        return state, number > config.last_generation or left <= 0

    def _learned(self, state: State) -> Learned:
        params, sparsity = self._projected(state)
        edges = None if self._edges is None else np.asarray(self._edges(state))
        at = int(state.generation), float(sparsity), params, state.moments
        return Learned(*at, edges=edges)


def _is_true(told: object) -> bool:
    """Whether it is True; NumPy's comparisons have a True of their own."""
    return isinstance(told, bool | np.bool_) and bool(told)


def start(config: Config, *, resume: bool = False) -> Run:
    """Makes everything a run needs and, if it is new, its folder with its config.

    Raises:
        ValueError: see ``train``.
    """
    run = prepared(config, resume=resume)
    if resume:  # it may go on for longer
        write(config.folder / "config.yaml", dump(replace(config, out=None)))
    else:
        make_folder(config.folder, config)
    return run


@pinned()
def prepared(config: Config, *, resume: bool = False) -> Run:
    """Makes everything a run needs, and leaves its folder as it is.

    Raises:
        ValueError: see ``train``.
    """
    folder = config.folder
    if resume and not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(exists_already(folder))
    if config.track:
        check_installed(config.track)
    experiment = build(config)
    if resume:
        experiment = experiment._replace(state=_restored(folder, experiment.state))
    policies = Policies(folder, generation=int(experiment.state.generation))
    evaluate = build_training(config, experiment)
    evaluate_center, close_center = make_evaluate_center(config, experiment)

    def due(number: int) -> bool:
        return number % config.evaluation.every == 0 or number == config.last_generation

    def close() -> None:
        close_center()
        if isinstance(evaluate, HostEvaluate):
            evaluate.close()

    run_generations = make_run_generations(experiment, evaluate, evaluate_center, due)
    return Run(config, experiment, policies, run_generations, close)


def exists_already(folder: Path) -> str:
    """The sentence for a run folder that is there."""
    return (
        f"run folder {folder} exists; go on with it by --resume {folder}, or choose another by "
        "--out"
    )


def make_folder(folder: Path, config: Config) -> None:
    """Makes a run folder with its config in it, whole or not at all, and only if there is none.

    Raises:
        ValueError: if it is there, or cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:50]}."))
        made.chmod(0o755)
        write(made / "config.yaml", dump(replace(config, out=None)))
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be made: {error.strerror}") from error
    try:
        os.rename(made, folder)  # fails where a folder with something in it is
    except OSError as error:
        (made / "config.yaml").unlink()
        made.rmdir()
        raise ValueError(exists_already(folder)) from error


def _restored(folder: Path, state: State) -> State:
    """The newest state of a run; its first, if the run died before its first checkpoint."""
    log = folder / "metrics.jsonl"
    rows = read_rows(log) if log.exists() else []
    checkpoints = Checkpoints(folder / "checkpoints", create=False)
    try:
        if checkpoints.latest() is None and not rows:
            return state
        return checkpoints.restore(state)
    finally:
        checkpoints.close()


def _draw(config: Config, experiment: Experiment, result: Result, params: Params) -> None:
    by_fraction = experiment.projection and config.sparsity.fraction
    fraction = f" β={config.sparsity.fraction:g}" if by_fraction else ""
    title = f"{config.task} ×{config.distractors}, {config.method}{fraction}"
    figures.learning_curve(result.rows, result.folder / "learning_curve.png", title=title)
    if result.reading is not None:
        still = robot(result.folder, experiment.task)
        if still is not None:
            write(result.folder / ROBOT, still)
        path = result.folder / "sensors.png"
        figures.sensors_picture(result.reading, path, title=title, robot=still)
        return
    norms = segment_norms(params, experiment.policy.layers, config.distractors).tolist()
    if norms:
        figures.segment_picture(norms, result.folder / "segments.png", title=title)


def _draw_search(config: Config, result: Result, wires: Wiring) -> None:
    title = f"{config.task} ×{config.distractors}, {config.method}"
    wiring_picture(wires, result.folder / "architecture.png", title=title)
    if not {"edges", "mask"} & set(config.search.space):
        return
    arrays = read_arrays(result.folder)
    proposed = Proposed(arrays["generation"], arrays["edges"])
    path, target = result.folder / "search.png", config.search.target
    search_picture(result.rows, proposed, wires, path, title=title, target=target)
