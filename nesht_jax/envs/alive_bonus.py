"""Fitness without the bonus that a task pays for being alive: it teaches a body to stand still."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from nesht_jax.types import Evaluate, Evaluation, HostEvaluate, Moments, Population


def without_alive_bonus(
    evaluate: Evaluate, bonus: float, terminal: float, fall_cost: int
) -> Evaluate:
    """Makes the ``Evaluate`` whose fitness is lower by a bonus for every step of a member.

    A fall in step t costs as much as the bonus of the steps t to ``fall_cost``, and at least that
    of one: either the task does not pay it for the step that terminates an episode, or that pay is
    left out as well.

    Args:
        evaluate: what plays the episodes, and tells when they terminate.
        bonus: reward of a step for being alive, over the number of episodes of a member.
        terminal: what of it the task pays for a step that terminates an episode.
        fall_cost: most that a fall costs, in bonuses of a step; at least 1.

    Reference: Mania et al. 2018 (arXiv 1803.07055), section 4.1; there a fall costs nothing in
    v4.
    """
    lowered = functools.partial(_lowered, bonus=bonus, terminal=terminal, fall_cost=fall_cost)
    if isinstance(evaluate, HostEvaluate):
        return _HostEvaluateWithoutBonus(evaluate, lowered)

    def without(
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        played = evaluate(key, population, moments, **_asked(horizon))
        return lowered(played)

    return without


class _HostEvaluateWithoutBonus:
    def __init__(self, evaluate: HostEvaluate, lowered: Callable[[Evaluation], Evaluation]) -> None:
        self._evaluate, self._lowered = evaluate, lowered
        self.seek, self.close = evaluate.seek, evaluate.close

    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        played = self._evaluate(key, population, moments, **_asked(horizon))
        return self._lowered(played)


def _asked(horizon: Int[Array, ""] | None) -> dict[str, Int[Array, ""]]:
    """The horizon by its name; nothing for an ``Evaluate`` that is not asked for one."""
    return {} if horizon is None else {"horizon": horizon}


@jax.jit
def _lowered(
    played: Evaluation,
    bonus: float | Float[Array, ""],
    terminal: float | Float[Array, ""],
    fall_cost: int | Int[Array, ""],
) -> Evaluation:
    paid = bonus * played.steps
    if played.terminated_at is not None:
        missed = jnp.maximum(fall_cost - played.terminated_at, 0)
        fallen = played.terminated_at > 0
        paid += jnp.where(fallen, terminal + bonus * missed, 0).sum(1)
    return played._replace(fitness=played.fitness - paid)
