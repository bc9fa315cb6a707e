"""Several generations at once, with the evaluations that fall due among them."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from nesht_jax.envs.compiler import compiler_options
from nesht_jax.es.nes import Algorithm, Info, State, make_generation
from nesht_jax.report.rows import EvaluationRow, Row
from nesht_jax.report.statistics import score
from nesht_jax.rl.agent import Agent
from nesht_jax.run import processes
from nesht_jax.run.agent import Advance, outcome
from nesht_jax.run.build import Experiment, Given, Values, mesh_of, with_values
from nesht_jax.run.evaluate import CenterEvaluation, EvaluateCenter
from nesht_jax.types import Evaluate, HostEvaluate, Moments, mask_of, sparsity_of

MOST_GENERATIONS_A_CALL = 64
"""Generations that one compiled call does, at most."""

MOST_STEPS = 2**31 - 1
"""Steps that no budget exceeds: more are none to be counted down."""

RunGenerations = Callable[[list[Any], range, list[int]], tuple[list[Any], list[list[Row]]]]
"""``(states, numbers, budgets) -> (states, rows)``, an entry a run: the generations of these
numbers, at most 64, up to the one that spends the run's budget of useful steps, which is evaluated.
A budget of 0 leaves a run as it is. Number 0 updates nothing: it is there to be evaluated."""


def make_run_generations(
    experiment: Experiment,
    evaluate: Evaluate | Advance,
    evaluate_center: EvaluateCenter,
    due: Callable[[int], bool],
    givens: list[Given],
) -> RunGenerations:
    """Makes what does the generations of a run, or of several that share a program.

    With a simulator in JAX they are one compiled call, evaluations included, with nothing sent to
    the host until its end. One program serves any numbers, and the bits do not depend on where a
    run is cut. Several runs play their episodes side by side, by ``vmap``; their updates are
    computed one after another, to the bits of the run alone.

    Args:
        experiment: task, policy and algorithm of the runs.
        evaluate: what plays the population; of an agent, what does a generation.
        evaluate_center: what plays the center.
        due: number of a generation -> whether the center is evaluated after it.
        givens: what differs between the runs, an entry a run; one of a simulator outside JAX.
    """
    if isinstance(experiment.algorithm, Agent):
        return _of_agent(experiment, cast(Advance, evaluate), evaluate_center, due)
    play = cast(Evaluate, evaluate)
    if isinstance(evaluate, HostEvaluate):
        return _on_host(experiment, experiment.algorithm, evaluate, evaluate_center, due)

    @jax.custom_batching.sequential_vmap
    def tell(
        values: Values, state: State, fitness: Float[Array, " m"], observed: Moments | None
    ) -> tuple[State, Info]:
        algorithm = strategy(with_values(experiment, values))
        return algorithm.tell(state, fitness, observed=observed)

    def generation(state: State, told: Given) -> tuple[State, Info]:
        algorithm = strategy(with_values(experiment, told.values))._replace(
            tell=lambda state, fitness, *, observed: tell(told.values, state, fitness, observed)
        )
        return make_generation(algorithm, play, horizon=experiment.horizon)(state)

    each, center_of_each = _for_each(generation, givens), _for_each(evaluate_center, givens)
    mesh = mesh_of(experiment.config)
    whole = {} if mesh is None else {"out_shardings": NamedSharding(mesh, PartitionSpec())}
    if mesh is not None:
        givens = processes.replicated(givens, mesh)

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(), **whole)
    def several(
        states: list[State],
        givens: list[Given],
        first: Int[Array, ""],
        n: Int[Array, ""],
        dues: Bool[Array, " most"],
        budgets: Int[Array, " runs"],
    ) -> tuple[list[State], Any, Int[Array, ""]]:
        runs, told = _stacked(states), _stacked(givens)
        shapes = jax.eval_shape(lambda s: (each(s, told)[1], center_of_each(s, told)), runs)
        results = jax.tree.map(lambda x: jnp.zeros((len(dues), *x.shape), x.dtype), shapes)
        no_info, no_evaluation = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one(carry: tuple[State, Any, Any, Any]) -> tuple[State, Any, Any, Any]:
            runs, results, i, left = carry
            moved, info = jax.lax.cond(
                first + i > 0, lambda s: each(s, told), lambda s: (s, no_info), runs
            )
            if len(states) > 1:
                moved = jax.vmap(_where)(left > 0, moved, runs)
            is_over = (left > 0) & (left <= info.steps)
            left = jnp.maximum(left - info.steps, 0)
            center = jax.lax.cond(
                dues[i] | is_over.any(),
                lambda s: center_of_each(s, told),
                lambda _: no_evaluation,
                moved,
            )
            results = jax.tree.map(lambda t, x: t.at[i].set(x), results, (info, center))
            return moved, results, i + 1, left

        runs, results, done, _ = jax.lax.while_loop(
            lambda c: (c[2] < n) & (c[3] > 0).any(), one, (runs, results, jnp.int32(0), budgets)
        )
        return [jax.tree.map(lambda x, r=r: x[r], runs) for r in range(len(states))], results, done

    def run_generations(
        states: list[State], numbers: range, budgets: list[int]
    ) -> tuple[list[State], list[list[Row]]]:
        dues = np.zeros(MOST_GENERATIONS_A_CALL, bool)
        dues[: len(numbers)] = [due(number) for number in numbers]
        places = np.int32(numbers[0]), np.int32(len(numbers))
        left = np.array([min(budget, MOST_STEPS) for budget in budgets], np.int32)
        states, results, done = several(states, givens, *places, dues, left)
        results, done = jax.device_get((results, done))
        rows = [
            _rows(
                experiment, jax.tree.map(lambda x, r=r: x[:, r], results), numbers[:done], dues, b
            )
            for r, b in enumerate(budgets)
        ]
        return states, rows

    return run_generations


def _for_each(of_one: Callable[[State, Given], Any], givens: list[Given]) -> Callable[..., Any]:
    """The function of one run as one of the runs along a leading axis; a run alone is not batched,
    as ``vmap`` would compute both sides of its branches."""
    if len(givens) > 1:
        return jax.vmap(of_one)
    return lambda *runs: _stacked([of_one(*jax.tree.map(lambda x: x[0], runs))])


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _where(condition: Bool[Array, ""], yes: Any, no: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def _rows(
    experiment: Experiment,
    results: tuple[Info, CenterEvaluation],
    numbers: range,
    dues: Bool[np.ndarray, " most"],
    budget: int,
) -> list[Row]:
    """The rows of one run, up to the one that spends its budget."""
    rows = []
    for i, number in enumerate(numbers):
        if budget <= 0:
            break
        info, center = jax.tree.map(lambda x, i=i: x[i], results)
        budget -= int(info.steps)
        told = (info if number else None, center if dues[i] or budget <= 0 else None)
        rows.append(_row(experiment, number, *told))
    return rows


def strategy(experiment: Experiment) -> Algorithm:
    """Gives the evolution strategy of an experiment that has one."""
    assert isinstance(experiment.algorithm, Algorithm)
    return experiment.algorithm


def _of_agent(
    experiment: Experiment,
    advance: Advance,
    evaluate_center: EvaluateCenter,
    due: Callable[[int], bool],
) -> RunGenerations:
    frame_skip = experiment.task.frame_skip

    def run_generations(
        states: list[Any], numbers: range, budgets: list[int]
    ) -> tuple[list[Any], list[list[Row]]]:
        (state,), (budget,), rows = states, budgets, []
        for number in numbers:
            row = Row(number)
            if number:
                before = int(state.agent.steps)
                state, progress = advance(state)
                fitness, metrics = outcome(progress)
                steps = int(state.agent.steps) - before
                budget -= steps
                row = row._replace(
                    fitness_mean=fitness,
                    failed=int(progress.failed),
                    sparsity=float(sparsity_of(mask_of(state.optimizer, state.params))),
                    steps=steps,
                    simulated_steps=steps,
                    agent=metrics,
                    frames=steps * frame_skip if frame_skip else None,
                )
            if due(number) or budget <= 0:
                row = row._replace(evaluation=_evaluation(evaluate_center(state)))
            rows.append(row)
            if budget <= 0:
                break
        return [state], [rows]

    return run_generations


def _on_host(
    experiment: Experiment,
    algorithm: Algorithm,
    evaluate: HostEvaluate,
    evaluate_center: EvaluateCenter,
    due: Callable[[int], bool],
) -> RunGenerations:
    algorithm = algorithm._replace(tell=jax.jit(algorithm.tell))
    generation = make_generation(algorithm, evaluate, horizon=experiment.horizon)

    def run_generations(
        states: list[State], numbers: range, budgets: list[int]
    ) -> tuple[list[State], list[list[Row]]]:
        (state,), (budget,), rows = states, budgets, []
        for number in numbers:
            info = None
            if number:
                evaluate.seek(number - 1)
                state, info = generation(state)
                budget -= int(info.steps)
            is_due = due(number) or budget <= 0
            center = evaluate_center(processes.local(state)) if is_due else None
            rows.append(_row(experiment, number, info, center))
            if budget <= 0:
                break
        return [state], [rows]

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
    return row if center is None else row._replace(evaluation=_evaluation(center))


def _evaluation(center: CenterEvaluation) -> EvaluationRow:
    return EvaluationRow(
        **score(center.returns, center.steps)._asdict(),
        sparsity=float(center.sparsity),
        segment_norms=np.asarray(center.segment_norms).tolist(),
    )
