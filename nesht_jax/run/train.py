"""A training run: generations, evaluations, checkpoints, until done or asked to stop.

``prepared`` refuses bad input and writes nothing; ``start`` makes the run folder, too; ``Run.go``
trains; ``train`` is all of them. ``go_together`` trains several runs by one program.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from operator import attrgetter
from signal import Signals

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from nesht_jax.report.rows import Row
from nesht_jax.rl.agent import Agent
from nesht_jax.run import processes
from nesht_jax.run.agent import Advance, RunState, make_advance
from nesht_jax.run.ambient import pinned
from nesht_jax.run.architecture import edge_frequency
from nesht_jax.run.build import (
    Experiment,
    Stream,
    Values,
    build,
    build_training,
    check_sparsity,
    given,
    mesh_of,
    stream,
    traceable,
    with_values,
)
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import EvaluateCenter, make_evaluate_center, projected
from nesht_jax.run.folder import found, make_folder, restored
from nesht_jax.run.generations import (
    MOST_GENERATIONS_A_CALL,
    MOST_STEPS,
    RunGenerations,
    make_run_generations,
)
from nesht_jax.run.interrupt import Stop, stop_signals
from nesht_jax.run.policies import Learned, Policies
from nesht_jax.run.provenance import Sitting, versions
from nesht_jax.run.record import Display, Metrics, by_generation
from nesht_jax.run.result import Result, conclude
from nesht_jax.run.track import check_installed
from nesht_jax.run.yaml import dump, write
from nesht_jax.types import Evaluate, HostEvaluate, Params

CALL_SECONDS = 0.5
"""A compiled call is lengthened while it takes less: it delays the display and Ctrl-C."""

OnEvaluation = Callable[[Row], object]
"""What takes the row of each evaluation: ``True`` ends the run there, anything else does not."""

Projected = Callable[[RunState], tuple[Params, Float[Array, ""], Float[Array, " e"] | None]]
"""State -> policy as sparse as the method makes it, its sparsity, and ``edge_frequency``."""


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
        FloatingPointError: if the params of an agent are no longer finite; its checkpoints stay.
        OSError: if the run folder is moved or removed while the run trains, or does not take what
            is written, or the last checkpoint does not read back.
    """
    return start(config, resume=resume).go(console or Console(), on_evaluation=on_evaluation)


class Run:
    """A run that is ready to train; made by ``prepared``.

    Attributes:
        config: everything about the run.
        experiment: task, policy and algorithm.
        evaluate: what plays the population; of an agent, what does a generation.
        evaluate_center: what plays the center.
        close: what frees the simulators of both.
        state: state after the last generation that was done.
        number: number of the next generation.
    """

    def __init__(
        self,
        config: Config,
        experiment: Experiment,
        policies: Policies | None,
        evaluate: Evaluate | Advance,
        evaluate_center: EvaluateCenter,
        close: Callable[[], object],
        *,
        steps: int,
        number: int,
    ) -> None:
        self.config, self.experiment, self._policies = config, experiment, policies
        self.evaluate, self.evaluate_center, self.close = evaluate, evaluate_center, close
        self.number, self._steps, self._writes = number, steps, processes.is_writer()
        mesh = mesh_of(config)
        state = experiment.state
        self.state = state if mesh is None else processes.replicated(state, mesh)

    @property
    def left(self) -> float:
        """Useful steps that are left to do; infinity without a limit."""
        return float((self.config.step_limit or math.inf) - self._steps)

    @property
    def is_done(self) -> bool:
        """Whether no generation is left to do."""
        return self.number > self.config.last_generation or self.left <= 0

    def go(self, console: Console, *, on_evaluation: OnEvaluation | None = None) -> Result:
        """Trains to the end, or until a signal or the function asks to stop; see ``train``."""
        (result,) = go_together([self], console, on_evaluation=on_evaluation)
        return result

    def begin(self, stack: ExitStack) -> None:
        """Opens what a run leaves while it goes; the stack closes it."""
        self.rows: list[Row] = []
        if not self._writes:
            return
        folder, generation = self.config.folder, int(self.state.generation)
        self._checkpoints = Checkpoints(folder / "checkpoints", self.config, create=True)
        stack.callback(self._checkpoints.close)
        self._checkpoints.set_aside(after=generation)
        # with checkpoint 0 a run that dies before its first evaluation can be resumed
        self.save()
        self._sitting = Sitting(folder, generation=generation)
        self._metrics = Metrics(self.config, generation=generation)
        self.rows = self._metrics.rows
        stack.callback(self._metrics.close)

    def take(self, state: RunState, rows: list[Row], projected: Projected) -> None:
        """Keeps the next generations; without rows the run is done, and stays as it is."""
        self.state = state  # the one before was donated, even where nothing was to be done
        if not rows:
            return
        self._log(rows)
        end = rows[-1].generation
        self.number, self._steps = end + 1, self._steps + sum(row.steps for row in rows)
        if self._writes and (evaluation := rows[-1].evaluation) is not None:
            params, sparsity, edges = projected(processes.local(state))
            edges = None if edges is None else np.asarray(edges)
            at = int(state.generation), float(sparsity), params, state.moments
            assert self._policies is not None
            self._policies.append(Learned(*at, edges=edges), mean=evaluation.mean)
        if end and end % self.config.checkpoint_every == 0:
            self.save()

    def _log(self, rows: list[Row]) -> None:
        if not self._writes:
            self.rows += rows
            return
        self._metrics.check()
        for row in rows:
            self._metrics.append(row)

    def save(self) -> None:
        """Writes a checkpoint, if there is none of this generation."""
        if self._writes:
            self._checkpoints.save(processes.local(self.state), steps=self._steps)

    def end(self) -> None:
        """Reads the last checkpoint back, and notes where the sitting ended.

        Raises:
            OSError: if the checkpoint is not there, or not as it was saved.
        """
        if not self._writes:
            return
        self._checkpoints.check(processes.local(self.state))
        self._sitting.end(generation=int(self.state.generation))

    def result(self, interrupted: Signals | None) -> Result:
        """Reads what the run came to, and draws it."""
        state = processes.local(self.state)
        return conclude(
            self.config, self.experiment, state, self.rows, interrupted, draws=self._writes
        )


@pinned()
def go_together(
    runs: list[Run], console: Console, *, on_evaluation: OnEvaluation | None = None
) -> list[Result]:
    """Trains runs side by side, by one program, to their ends or until a signal asks to stop.

    Args:
        runs: runs whose configs differ in their seeds and in what ``build.traceable`` lists, and
            whose next generation is the same; a single one if its simulator is outside JAX.
        console: console for progress.
        on_evaluation: see ``train``; of a single run.
    """
    with ExitStack() as stack:
        for run in runs:
            stack.callback(run.close)
        stop = stack.enter_context(stop_signals())
        for run in runs:
            run.begin(stack)
        with _display(runs, console) as display:
            is_told_to_stop = _loop(runs, display, stop, on_evaluation)
        for run in runs:
            run.end()
    interrupted = stop.asked if is_told_to_stop else None
    results = [run.result(None if run.is_done else interrupted) for run in runs]
    processes.meet(None)  # the others do not end while the writer draws
    return results


def _display(runs: list[Run], console: Console) -> Display:
    config = runs[0].config
    by_steps = config.generations is None
    total = len(runs) * (config.step_limit or 0) if by_steps else config.generations
    rows = by_generation([run.rows for run in runs])
    return Display(console, total=total, by_steps=by_steps, rows=rows)


def _loop(
    runs: list[Run], display: Display, stop: Stop, on_evaluation: OnEvaluation | None
) -> bool:
    """Trains; says whether it ended before all was done."""
    config = runs[0].config
    run_generations, projected = _programs(runs)
    beats = config.checkpoint_every, config.evaluation.every
    calls, done_calls, longest = 1, 0, None
    while not (all_done := all(run.is_done for run in runs)):
        calls, asked = processes.agree(calls, stop.asked or 0, longest=longest)
        if asked:
            stop.asked = Signals(asked)
            break
        number = min(run.number for run in runs if not run.is_done)
        most = min(calls, *(1 + -number % beat for beat in beats))
        numbers = range(number, min(config.last_generation, number + most - 1) + 1)
        budgets = [int(max(0, min(run.left, MOST_STEPS))) for run in runs]
        started = time.monotonic()
        with processes.watched(longest):
            states, done = run_generations([run.state for run in runs], numbers, budgets)
        took = time.monotonic() - started
        done_calls += 1
        if done_calls > 2:  # the first two compile
            longest = max(longest or 0.0, took)
        seconds = took / max(map(len, done))
        calls = max(1, min(MOST_GENERATIONS_A_CALL, int(CALL_SECONDS / seconds), 2 * calls))
        done = [[row._replace(seconds=seconds) for row in rows] for rows in done]
        for run, state, rows, project in zip(runs, states, done, projected, strict=True):
            run.take(state, rows, project)
        for row in by_generation(done):
            display.update(row)
        if on_evaluation is not None and done[0][-1].evaluation is not None:
            runs[0].save()
            if _is_true(on_evaluation(runs[0].rows[-1])):
                break
    for run in runs:
        run.save()
    return not all_done


def _programs(runs: list[Run]) -> tuple[RunGenerations, list[Projected]]:
    """What does the generations of all runs, and what projects the center of each, compiled once
    for all."""
    lead, experiment = runs[0], runs[0].experiment
    config = lead.config
    varied = [
        name
        for name in traceable(config)
        if len({attrgetter(name)(run.config) for run in runs}) > 1
    ]
    givens = [given(run.config, varied) for run in runs]

    def due(number: int) -> bool:
        return number % config.evaluation.every == 0 or number == config.last_generation

    run_generations = make_run_generations(
        experiment, lead.evaluate, lead.evaluate_center, due, givens
    )

    @jax.jit
    def project(values: Values, state: RunState) -> tuple[Params, Array, Array | None]:
        params, sparsity = projected(with_values(experiment, values), state)
        return params, sparsity, edge_frequency(config, experiment.search, state)

    return run_generations, [partial(project, told.values) for told in givens]


def _is_true(told: object) -> bool:
    """Whether it is True; NumPy's comparisons have a True of their own."""
    return isinstance(told, bool | np.bool_) and bool(told)


def start(config: Config, *, resume: bool = False) -> Run:
    """Makes everything a run needs and, if it is new, its folder with its config.

    Raises:
        ValueError: see ``train``.
    """
    run = prepared(config, resume=resume)

    def keep() -> bytes:
        if resume:  # it may go on for longer
            write(run.config.folder / "config.yaml", dump(replace(run.config, out=None)))
        else:
            make_folder(run.config.folder, run.config)
        return b""

    processes.from_writer(keep)
    return run


@pinned()
def prepared(config: Config, *, resume: bool = False) -> Run:
    """Makes everything a run needs, and leaves its folder as it is.

    Raises:
        ValueError: see ``train``.
    """
    folder = config.folder
    if processes.number() > 1:
        processes.check_same("what is installed", json.dumps(versions()))
        processes.check_same("the config", dump(replace(config, out=None)))
    if config.track:
        check_installed(config.track)
    shares = processes.from_writer(lambda: found(folder, resume=resume))
    if resume and config.shares is None:
        config = replace(config, shares=int(shares) or 1)
    experiment = build(config)
    config, steps, has_row_0 = replace(experiment.config, out=str(folder)), 0, False
    experiment = experiment._replace(config=config)
    if resume:
        saved, has_row_0 = restored(config, experiment.state)
        experiment, steps = experiment._replace(state=saved.state), saved.steps
    else:
        check_sparsity(experiment)
    # the state alone says where to go on; row 0, the evaluation before training, may be missing
    generation = int(experiment.state.generation)
    number = generation + 1 if generation or has_row_0 else 0
    policies = Policies(folder, number=number) if processes.is_writer() else None
    evaluate, close_training = _training(config, experiment)
    evaluate_center, close_center = make_evaluate_center(config, experiment)

    def close() -> None:
        close_center()
        close_training()

    return Run(
        config,
        experiment,
        policies,
        evaluate,
        evaluate_center,
        close,
        steps=steps,
        number=number,
    )


def _training(
    config: Config, experiment: Experiment
) -> tuple[Evaluate | Advance, Callable[[], object]]:
    """What plays the population, or does a generation of the agent; and what frees it."""
    if isinstance(experiment.algorithm, Agent):
        # a resumed run has other episodes outside JAX, not those of its beginning again
        generation = int(experiment.state.generation)
        seed = stream(stream(config.seed, Stream.SIMULATOR) + generation, Stream.SIMULATOR)
        return make_advance(config, experiment.task, experiment.algorithm, seed=seed)
    evaluate = build_training(config, experiment)
    return evaluate, evaluate.close if isinstance(evaluate, HostEvaluate) else lambda: None
