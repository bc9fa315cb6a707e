"""Several generations at once, with the evaluations that fall due among them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from nesht_jax.contract import HostEvaluate
from nesht_jax.envs.compiler import compiler_options
from nesht_jax.nesht import State, make_generation
from nesht_jax.run.build import Setup
from nesht_jax.run.evaluate import Centre, score
from nesht_jax.run.record import Row

MOST_GENERATIONS_A_CALL = 64
"""Generations that a pure room does in one compiled call, at most."""

Advance = Callable[[State, range], tuple[State, list[Row]]]
"""``(state, numbers) -> (state, rows)``: the generations of these numbers, at most 64. Number 0
updates nothing: it is there to be evaluated."""


def make_advance(
    setup: Setup, evaluate_centre: Callable[[State], Centre], due: Callable[[int], bool]
) -> Advance:
    """What does the generations of a run.

    A pure room does them in one compiled call, evaluations included, with nothing sent to the host
    until its end. One program serves any numbers, and the bits do not depend on where a run is cut.

    Args:
        setup: of the run.
        evaluate_centre: plays the centre.
        due: whether the centre is evaluated after the generation of that number.
    """
    if isinstance(setup.evaluate, HostEvaluate):
        return _advance_on_host(setup, setup.evaluate, evaluate_centre, due)
    generation = make_generation(setup.algorithm, setup.evaluate)

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def several(
        state: State, first: Int[Array, ""], n: Int[Array, ""], dues: Bool[Array, " most"]
    ) -> tuple[State, Any]:
        shapes = jax.eval_shape(lambda s: (generation(s)[1], evaluate_centre(s)), state)
        table = jax.tree.map(lambda x: jnp.zeros((len(dues), *x.shape), x.dtype), shapes)
        no_news, no_score = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one(i: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
            state, table = carry
            state, news = jax.lax.cond(first + i > 0, generation, lambda s: (s, no_news), state)
            centre = jax.lax.cond(dues[i], evaluate_centre, lambda _: no_score, state)
            return state, jax.tree.map(lambda t, x: t.at[i].set(x), table, (news, centre))

        return jax.lax.fori_loop(0, n, one, (state, table))

    def advance(state: State, numbers: range) -> tuple[State, list[Row]]:
        dues = np.zeros(MOST_GENERATIONS_A_CALL, bool)
        dues[: len(numbers)] = [due(number) for number in numbers]
        state, table = several(state, numbers[0], len(numbers), dues)
        table = jax.device_get(table)
        rows = []
        for i, number in enumerate(numbers):
            news, centre = jax.tree.map(lambda x, i=i: x[i], table)
            rows.append(_row(setup, number, news, centre if dues[i] else None))
        return state, rows

    return advance


def _advance_on_host(
    setup: Setup,
    room: HostEvaluate,
    evaluate_centre: Callable[[State], Centre],
    due: Callable[[int], bool],
) -> Advance:
    generation = make_generation(setup.algorithm._replace(tell=jax.jit(setup.algorithm.tell)), room)

    def advance(state: State, numbers: range) -> tuple[State, list[Row]]:
        rows = []
        for number in numbers:
            news = None
            if number:
                room.seek(number - 1)
                state, news = generation(state)
            rows.append(_row(setup, number, news, evaluate_centre(state) if due(number) else None))
        return state, rows

    return advance


def _row(setup: Setup, number: int, news: Any, centre: Centre | None) -> Row:
    row: Row = {"generation": number}
    if number:
        info, steps, simulated = jax.device_get(news)
        row |= {name: value.item() for name, value in info._asdict().items()}
        row |= {"steps": int(steps), "simulated": int(simulated)}
        if setup.spec.frame_skip:
            row["frames"] = int(steps) * setup.spec.frame_skip
    if centre is not None:
        row["evaluation"] = {
            **score(centre.returns, centre.steps)._asdict(),
            "sparsity": float(centre.sparsity),
            "segment_norms": np.asarray(centre.segment_norms).tolist(),
        }
    return row
