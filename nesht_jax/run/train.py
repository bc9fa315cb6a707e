"""A training run: generations, evaluations, checkpoints, until done or asked to stop."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from nesht_jax.contract import HostEvaluate
from nesht_jax.nesht import State, make_generation, realised_sparsity
from nesht_jax.policy import segment_norms
from nesht_jax.run import plot
from nesht_jax.run.build import Setup, build, thresholded
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config, dump
from nesht_jax.run.evaluate import CentreEvaluator
from nesht_jax.run.interrupt import Stop, stop_signals
from nesht_jax.run.record import Display, Metrics, Row

MOST_GENERATIONS_A_CALL = 64
"""Generations that a pure room does in one compiled call, at most."""

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
    evaluate_centre = CentreEvaluator(
        config, setup.policy, episodes=config.evaluate_episodes, seed=config.seed + 1
    )
    advance = make_advance(setup)
    calls = 1
    if not metrics.rows:
        metrics.append({"generation": 0, "evaluation": _evaluation(config, evaluate_centre, state)})
        display.update(metrics.rows[-1])
    while (done := int(state.generation)) < config.generations and not stop.asked:
        to_boundary = min(
            config.generations - done,
            config.evaluate_every - done % config.evaluate_every,
            config.checkpoint_every - done % config.checkpoint_every,
        )
        started = time.monotonic()
        state, rows = advance(state, min(calls, to_boundary))
        seconds = (time.monotonic() - started) / len(rows)
        calls = max(1, min(MOST_GENERATIONS_A_CALL, int(CALL_SECONDS / seconds), 2 * calls))
        done = int(state.generation)
        if done % config.evaluate_every == 0 or done == config.generations:
            rows[-1]["evaluation"] = _evaluation(config, evaluate_centre, state)
        for row in rows:
            metrics.append({**row, "seconds": seconds})
            display.update(metrics.rows[-1])
        if done % config.checkpoint_every == 0:
            checkpoints.save(state)
    checkpoints.save(state)
    return state


def make_advance(setup: Setup) -> Callable[[State, int], tuple[State, list[Row]]]:
    """``(state, n) -> (state after n generations, their rows)``, n at most 64.

    A pure room does them in one compiled call with a traced n, so that one program serves every n
    and the bits do not depend on where a run was cut.
    """
    if isinstance(setup.evaluate, HostEvaluate):
        room = setup.evaluate
        algorithm = setup.algorithm._replace(tell=jax.jit(setup.algorithm.tell))
        generation = make_generation(algorithm, room)

        def step_host(state: State, n: int) -> tuple[State, list[Row]]:
            rows = []
            for done in range(int(state.generation), int(state.generation) + n):
                room.seek(done)
                state, out = generation(state)
                rows.append(_row(done + 1, out))
            return state, rows

        return step_host

    generation = make_generation(setup.algorithm, setup.evaluate)

    @partial(jax.jit, donate_argnums=0)
    def several(state: State, n: Any) -> tuple[State, Any]:
        out = jax.eval_shape(generation, state)[1]
        table = jax.tree.map(lambda x: jnp.zeros((MOST_GENERATIONS_A_CALL, *x.shape), x.dtype), out)

        def one(i: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
            state, out = generation(carry[0])
            return state, jax.tree.map(lambda t, x: t.at[i].set(x), carry[1], out)

        return jax.lax.fori_loop(0, n, one, (state, table))

    def step_pure(state: State, n: int) -> tuple[State, list[Row]]:
        first = int(state.generation) + 1
        state, table = several(state, n)
        table = jax.device_get(table)
        return state, [_row(first + i, jax.tree.map(lambda x, i=i: x[i], table)) for i in range(n)]

    return step_pure


def _row(generation: int, out: Any) -> Row:
    info, steps, simulated = jax.device_get(out)
    told = {name: value.item() for name, value in info._asdict().items()}
    return {"generation": generation, **told, "steps": int(steps), "simulated": int(simulated)}


def _evaluation(config: Config, evaluate_centre: CentreEvaluator, state: State) -> Row:
    params = thresholded(config, state.params)
    score = evaluate_centre(int(state.generation), params, state.moments)
    return {
        **score._asdict(),
        "sparsity": float(realised_sparsity(params)),
        "segment_norms": [float(n) for n in segment_norms(params, config.noise)],
    }


def _draw(config: Config, result: Result) -> None:
    kind = "NESHT" if config.threshold.sparsity else "NES"
    title = f"{config.task} ×{config.noise}, {kind} β={config.threshold.sparsity}"
    plot.learning_curve(result.rows, result.folder / "learning_curve.png", title=title)
    norms = segment_norms(thresholded(config, result.state.params), config.noise)
    plot.segment_picture([float(n) for n in norms], result.folder / "segments.png", title=title)
