"""Fitness without the bonus that a task pays for being alive: it teaches a body to stand still."""

import jax
from jaxtyping import Array, Float, Int, Key

from nesht_jax.types import Evaluate, Evaluation, HostEvaluate, Moments, Population


def without_alive_bonus(evaluate: Evaluate, bonus: float, terminal: float) -> Evaluate:
    """Makes the ``Evaluate`` whose fitness is lower by a bonus for every step of a member.

    A fall costs the bonus once, too: either the task does not pay it for the step that terminates
    an episode, or that pay is left out as well.

    Args:
        evaluate: what plays the episodes, and counts terminations where these pay.
        bonus: reward of a step for being alive, over the number of episodes of a member.
        terminal: what of it the task pays for a step that terminates an episode.

    Reference: Mania et al. 2018 (arXiv 1803.07055), section 4.1; there a fall costs nothing.
    """
    if isinstance(evaluate, HostEvaluate):
        return _HostEvaluateWithoutBonus(evaluate, bonus, terminal)

    def without(
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        played = evaluate(key, population, moments, **_asked(horizon))
        return _lowered(played, bonus, terminal)

    return without


class _HostEvaluateWithoutBonus:
    def __init__(self, evaluate: HostEvaluate, *bonuses: float) -> None:
        self._evaluate, self._bonuses = evaluate, bonuses
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
        return _lowered(played, *self._bonuses)


def _asked(horizon: Int[Array, ""] | None) -> dict[str, Int[Array, ""]]:
    """The horizon by its name; nothing for an ``Evaluate`` that is not asked for one."""
    return {} if horizon is None else {"horizon": horizon}


@jax.jit
def _lowered(
    played: Evaluation, bonus: float | Float[Array, ""], terminal: float | Float[Array, ""]
) -> Evaluation:
    paid = bonus * played.steps
    if played.terminations is not None:
        paid += terminal * played.terminations
    return played._replace(fitness=played.fitness - paid)
