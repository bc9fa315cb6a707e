"""Several generations at once, with the evaluations that fall due among them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from nesht_jax.envs.compiler import compiler_options
from nesht_jax.es.nes import Info, State, make_generation
from nesht_jax.report.rows import EvaluationRow, Row
from nesht_jax.report.statistics import score
from nesht_jax.run.build import Experiment
from nesht_jax.run.evaluate import CenterEvaluation
from nesht_jax.types import Evaluate, HostEvaluate

MOST_GENERATIONS_A_CALL = 64
"""Generations that one compiled call does, at most."""

RunGenerations = Callable[[State, range], tuple[State, list[Row]]]
"""``(state, numbers) -> (state, rows)``: the generations of these numbers, at most 64. Number 0
updates nothing: it is there to be evaluated."""


def make_run_generations(
    experiment: Experiment,
    evaluate: Evaluate,
    evaluate_center: Callable[[State], CenterEvaluation],
    due: Callable[[int], bool],
) -> RunGenerations:
    """Makes what does the generations of a run.

    With a simulator in JAX they are one compiled call, evaluations included, with nothing sent to
    the host until its end. One program serves any numbers, and the bits do not depend on where a
    run is cut.

    Args:
        experiment: task, policy and algorithm of the run.
        evaluate: what plays the population.
        evaluate_center: what plays the center.
        due: number of a generation -> whether the center is evaluated after it.
    """
    if isinstance(evaluate, HostEvaluate):
        return _on_host(experiment, evaluate, evaluate_center, due)
    generation = make_generation(experiment.algorithm, evaluate)

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def several(
        state: State, first: Int[Array, ""], n: Int[Array, ""], dues: Bool[Array, " most"]
    ) -> tuple[State, Any]:
        shapes = jax.eval_shape(lambda s: (generation(s)[1], evaluate_center(s)), state)
        results = jax.tree.map(lambda x: jnp.zeros((len(dues), *x.shape), x.dtype), shapes)
        no_info, no_evaluation = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one(i: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
            state, results = carry
            state, info = jax.lax.cond(first + i > 0, generation, lambda s: (s, no_info), state)
            center = jax.lax.cond(dues[i], evaluate_center, lambda _: no_evaluation, state)
            return state, jax.tree.map(lambda t, x: t.at[i].set(x), results, (info, center))

        return jax.lax.fori_loop(0, n, one, (state, results))

    def run_generations(state: State, numbers: range) -> tuple[State, list[Row]]:
        dues = np.zeros(MOST_GENERATIONS_A_CALL, bool)
        dues[: len(numbers)] = [due(number) for number in numbers]
        state, results = several(state, np.int32(numbers[0]), np.int32(len(numbers)), dues)
        results = jax.device_get(results)
        rows = []
        for i, number in enumerate(numbers):
            info, center = jax.tree.map(lambda x, i=i: x[i], results)
            told = (info if number else None, center if dues[i] else None)
            rows.append(_row(experiment, number, *told))
        return state, rows

    return run_generations


def _on_host(
    experiment: Experiment,
    evaluate: HostEvaluate,
    evaluate_center: Callable[[State], CenterEvaluation],
    due: Callable[[int], bool],
) -> RunGenerations:
    algorithm = experiment.algorithm._replace(tell=jax.jit(experiment.algorithm.tell))
    generation = make_generation(algorithm, evaluate)

    def run_generations(state: State, numbers: range) -> tuple[State, list[Row]]:
        rows = []
        for number in numbers:
            info = None
            if number:
                evaluate.seek(number - 1)
                state, info = generation(state)
            center = evaluate_center(state) if due(number) else None
            rows.append(_row(experiment, number, info, center))
        return state, rows

    return run_generations


def _row(
    experiment: Experiment, number: int, info: Info | None, center: CenterEvaluation | None
) -> Row:
    row = Row(number)
    if info is not None:
        told = {name: np.asarray(value).item() for name, value in info._asdict().items()}
        row = row._replace(**told)
        if experiment.task.frame_skip:
            row = row._replace(frames=row.steps * experiment.task.frame_skip)
    if center is not None:
        found = score(center.returns, center.steps)
        evaluation = EvaluationRow(
            **found._asdict(),
            sparsity=float(center.sparsity),
            segment_norms=np.asarray(center.segment_norms).tolist(),
        )
        row = row._replace(evaluation=evaluation)
    return row
