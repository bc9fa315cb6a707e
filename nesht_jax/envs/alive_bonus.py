"""Fitness without the bonus that a task pays for being alive: it teaches a body to stand still."""

import jax
from jaxtyping import Array, Float, Int, Key

from nesht_jax.types import Evaluate, Evaluation, HostEvaluate, Moments, Population


def without_alive_bonus(evaluate: Evaluate, bonus: float) -> Evaluate:
    """Makes the ``Evaluate`` whose fitness is lower by a bonus for every step of a member.

    Where a task does not pay the bonus for the step that ends an episode, a fall costs it once.

    Args:
        evaluate: what plays the episodes.
        bonus: reward of a step for being alive, over the number of episodes of a member.

    Reference: Mania et al. 2018 (arXiv 1803.07055), section 4.1.
    """
    if isinstance(evaluate, HostEvaluate):
        return _HostEvaluateWithoutBonus(evaluate, bonus)

    def without(
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        return _lowered(evaluate(key, population, moments, **_asked(horizon)), bonus)

    return without


class _HostEvaluateWithoutBonus:
    def __init__(self, evaluate: HostEvaluate, bonus: float) -> None:
        self._evaluate, self._bonus = evaluate, bonus
        self.seek, self.close = evaluate.seek, evaluate.close

    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        evaluation = self._evaluate(key, population, moments, **_asked(horizon))
        return _lowered(evaluation, self._bonus)


def _asked(horizon: Int[Array, ""] | None) -> dict[str, Int[Array, ""]]:
    """The horizon by its name; nothing for an ``Evaluate`` that is not asked for one."""
    return {} if horizon is None else {"horizon": horizon}


@jax.jit
def _lowered(evaluation: Evaluation, bonus: float | Float[Array, ""]) -> Evaluation:
    return evaluation._replace(fitness=evaluation.fitness - bonus * evaluation.steps)
