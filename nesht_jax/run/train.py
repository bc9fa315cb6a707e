"""A training run: generations, evaluations, checkpoints, until done or asked to stop."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import NamedTuple

from rich.console import Console

from nesht_jax.nesht import State
from nesht_jax.policy import segment_norms
from nesht_jax.run import plot
from nesht_jax.run.advance import MOST_GENERATIONS_A_CALL, make_advance
from nesht_jax.run.build import Setup, build, thresholded
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config, dump
from nesht_jax.run.evaluate import make_evaluate_centre
from nesht_jax.run.interrupt import Stop, stop_signals
from nesht_jax.run.record import Display, Metrics, Row

CALL_SECONDS = 0.5
"""A compiled call is lengthened while it takes less: it delays the display and Ctrl-C."""


class Result(NamedTuple):
    """What a run came to.

    Attributes:
        folder: where everything lies.
        state: after the last generation; ``state.params`` is the centre.
        rows: the metrics, one row a generation; row 0 is the evaluation before the first.
        interrupted: the signal that ended the run early, if one did.
    """

    folder: Path
    state: State
    rows: list[Row]
    interrupted: Signals | None


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> Result:
    """Trains as the config says, and leaves a run folder.

    Args:
        config: everything about the run.
        resume: go on from the newest checkpoint of ``config.folder``: bit for bit the run that
            would have been.
        console: where progress goes; standard output if None.

    Raises:
        ValueError: in one sentence, before anything is written, if the config is impossible, the
            run folder exists (or does not, for ``resume``), or its checkpoint cannot be read.
    """
    folder = config.folder
    if not resume and folder.exists():
        raise ValueError(
            f"run folder {folder} exists; go on with it by --resume {folder}, or choose another "
            "by --out"
        )
    setup = build(config)
    checkpoints = Checkpoints(folder / "checkpoints", create=not resume)
    with closing(checkpoints):
        state = checkpoints.restore(setup.state) if resume else setup.state
        (folder / "config.yaml").write_text(dump(replace(config, out=None)))
        metrics = Metrics(folder, generation=int(state.generation))
        display = Display(console or Console(), total=config.generations, rows=metrics.rows)
        with closing(metrics), stop_signals() as stop, display:
            state = _loop(config, setup, state, checkpoints, metrics, display, stop)
    result = Result(folder, state, metrics.rows, stop.asked)
    _draw(config, result)
    return result


def _loop(
    config: Config,
    setup: Setup,
    state: State,
    checkpoints: Checkpoints,
    metrics: Metrics,
    display: Display,
    stop: Stop,
) -> State:
    def due(number: int) -> bool:
        return number % config.evaluate_every == 0 or number == config.generations

    advance = make_advance(setup, make_evaluate_centre(config, setup.policy), due)
    number = int(state.generation) + 1 if metrics.rows else 0
    calls = 1
    while number <= config.generations and not stop.asked:
        to_checkpoint = 1 + -number % config.checkpoint_every
        end = min(config.generations, number + min(calls, to_checkpoint) - 1)
        started = time.monotonic()
        state, rows = advance(state, range(number, end + 1))
        seconds = (time.monotonic() - started) / len(rows)
        calls = max(1, min(MOST_GENERATIONS_A_CALL, int(CALL_SECONDS / seconds), 2 * calls))
        for row in rows:
            metrics.append({**row, "seconds": seconds})
            display.update(metrics.rows[-1])
        if end and end % config.checkpoint_every == 0:
            checkpoints.save(state)
        number = end + 1
    checkpoints.save(state)
    return state


def _draw(config: Config, result: Result) -> None:
    kind = "NESHT" if config.threshold.sparsity else "NES"
    title = f"{config.task} ×{config.noise}, {kind} β={config.threshold.sparsity}"
    plot.learning_curve(result.rows, result.folder / "learning_curve.png", title=title)
    norms = segment_norms(thresholded(config, result.state.params), config.noise)
    plot.segment_picture([float(n) for n in norms], result.folder / "segments.png", title=title)
