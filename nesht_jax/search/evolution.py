"""Regularized evolution: mutants of the winners of tournaments, where the oldest die."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Int, Key

from nesht_jax.search.controller import Controller, take
from nesht_jax.search.space import Architecture, Space


class EvolutionState(NamedTuple):
    """The population, oldest first.

    Attributes:
        architectures: architectures, stacked along their leading axis [n].
        fitness: fitness that each was told with.
        told: how many were told in all.
    """

    architectures: Architecture
    fitness: Float[Array, " n"]
    told: Int[Array, ""]


def regularized_evolution(
    space: Space, *, population_size: int, tournament_size: int | None = None
) -> Controller:
    """Proposes mutants of the best of t drawn from the n told last; at random until n were told.

    With as many proposals a generation as the population holds, every generation replaces all.

    Args:
        space: what to propose from.
        population_size: n, how many are remembered.
        tournament_size: t of them, drawn without replacement, whose best is mutated; None: ⌊√n⌋.

    Raises:
        ValueError: if a tournament is larger than the population, or empty.

    Reference: Real et al. 2019 (arXiv 1802.01548), algorithm 1; Song et al. 2021 (ES-ENAS, arXiv
    2101.07415), appendix C.1.1.
    """
    t = max(1, int(population_size**0.5)) if tournament_size is None else tournament_size
    if not 1 <= t <= population_size:
        raise ValueError(
            f"a tournament must have 1 to {population_size} of the population, got {t}"
        )
    odds = jnp.asarray(_winning_odds(population_size, t), jnp.float32)

    def init(key: Key[Array, ""]) -> EvolutionState:
        keys = jax.random.split(key, population_size)
        drawn = jax.vmap(space.draw, (0, None))(keys, space.logits)
        unknown = jnp.full(population_size, -jnp.inf, jnp.float32)
        return EvolutionState(drawn, unknown, jnp.int32(0))

    def propose(
        state: EvolutionState, key: Key[Array, ""], i: int | Int[Array, ""]
    ) -> Architecture:
        fresh, who, how = jax.random.split(jax.random.fold_in(key, i), 3)
        rank = jax.random.categorical(who, odds)
        parent = take(state.architectures, jnp.argsort(-state.fitness, stable=True)[rank])
        child = space.mutate(how, parent)
        is_early = state.told < population_size
        drawn = space.draw(fresh, space.logits)
        return jax.tree.map(lambda new, old: jnp.where(is_early, new, old), drawn, child)

    def update(
        state: EvolutionState,
        key: Key[Array, ""],
        architectures: Architecture,
        fitness: Float[Array, " p"],
    ) -> EvolutionState:
        def youngest(old: Array, new: Array) -> Array:
            return jnp.concatenate([old, new])[-population_size:]

        told = jnp.minimum(state.told, population_size) + fitness.shape[0]
        queue = jax.tree.map(youngest, state.architectures, architectures)
        return EvolutionState(queue, youngest(state.fitness, fitness), told.astype(jnp.int32))

    def best(state: EvolutionState) -> Architecture:
        return take(state.architectures, jnp.argmax(state.fitness))

    return Controller(space.canonical, init, propose, update, best)


def _winning_odds(n: int, t: int) -> Any:
    """log P(the winner has rank r) of t out of n: log C(n - 1 - r, t - 1) - log C(n, t)."""

    def log_binomial(a: np.ndarray, b: int) -> np.ndarray:
        possible = np.maximum(a, b)
        found = gammaln(possible + 1.0) - gammaln(b + 1.0) - gammaln(possible - b + 1.0)
        return np.where(a >= b, np.asarray(found), -np.inf)

    below = n - 1 - np.arange(n)
    return log_binomial(below, t - 1) - log_binomial(np.array(n), t)
