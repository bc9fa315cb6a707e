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

MOST_STEPS = 2**31 - 1
"""Steps that no budget exceeds: more are none to be counted down."""

RunGenerations = Callable[[State, range, int], tuple[State, list[Row]]]
"""``(state, numbers, budget) -> (state, rows)``: the generations of these numbers, at most 64, up
to the one that spends the budget of useful steps, which is evaluated. Number 0 updates nothing: it
is there to be evaluated."""


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
        evaluate_center: what plays the center; a pytree where the simulator is in JAX.
        due: number of a generation -> whether the center is evaluated after it.
    """
    if isinstance(evaluate, HostEvaluate):
        return _on_host(experiment, evaluate, evaluate_center, due)
    generation = make_generation(experiment.algorithm, evaluate, horizon=experiment.horizon)

    @partial(jax.jit, donate_argnums=1, compiler_options=compiler_options())
    def several(
        evaluate_center: Callable[[State], CenterEvaluation],
        state: State,
        first: Int[Array, ""],
        n: Int[Array, ""],
        dues: Bool[Array, " most"],
        budget: Int[Array, ""],
    ) -> tuple[State, Any, Int[Array, ""]]:
        shapes = jax.eval_shape(lambda s: (generation(s)[1], evaluate_center(s)), state)
        results = jax.tree.map(lambda x: jnp.zeros((len(dues), *x.shape), x.dtype), shapes)
        no_info, no_evaluation = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one(carry: tuple[State, Any, Any, Any]) -> tuple[State, Any, Any, Any]:
            state, results, i, left = carry
            state, info = jax.lax.cond(first + i > 0, generation, lambda s: (s, no_info), state)
            left = jnp.maximum(left - info.steps, 0)
            is_due = dues[i] | (left == 0)
            center = jax.lax.cond(is_due, evaluate_center, lambda _: no_evaluation, state)
            results = jax.tree.map(lambda t, x: t.at[i].set(x), results, (info, center))
            return state, results, i + 1, left

        start = state, results, jnp.int32(0), budget
        state, results, done, _ = jax.lax.while_loop(lambda c: (c[2] < n) & (c[3] > 0), one, start)
        return state, results, done

    def run_generations(state: State, numbers: range, budget: int) -> tuple[State, list[Row]]:
        dues = np.zeros(MOST_GENERATIONS_A_CALL, bool)
        dues[: len(numbers)] = [due(number) for number in numbers]
        places = np.int32(numbers[0]), np.int32(len(numbers))
        left = np.int32(min(budget, MOST_STEPS))
        state, results, done = several(evaluate_center, state, *places, dues, left)
        results, done = jax.device_get((results, done))
        rows = []
        for i, number in enumerate(numbers[:done]):
            info, center = jax.tree.map(lambda x, i=i: x[i], results)
            budget -= int(info.steps)
            told = (info if number else None, center if dues[i] or budget <= 0 else None)
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
    generation = make_generation(algorithm, evaluate, horizon=experiment.horizon)

    def run_generations(state: State, numbers: range, budget: int) -> tuple[State, list[Row]]:
        rows = []
        for number in numbers:
            info = None
            if number:
                evaluate.seek(number - 1)
                state, info = generation(state)
                budget -= int(info.steps)
            center = evaluate_center(state) if due(number) or budget <= 0 else None
            rows.append(_row(experiment, number, info, center))
            if budget <= 0:
                break
        return state, rows

    return run_generations


def _row(
    experiment: Experiment, number: int, info: Info | None, center: CenterEvaluation | None
) -> Row:
    row = Row(number)
    if info is not None:
        told = {n: np.asarray(x).item() for n, x in info._asdict().items() if x is not None}
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
