"""Fitness to utility. Larger is better; a member that failed (NaN, ±inf) ranks worst.

``centered_rank``, ``wierstra`` and ``standardize`` return exact zeros when all fitnesses are equal:
a residue of 1e-9 would make Adam walk at random, because it divides the gradient by its own size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

Shaping = Callable[[Real[Array, " m"]], Float[Array, " m"]]
"""Fitness of all members -> utility of each."""


def failed(fitness: Real[Array, " m"]) -> Bool[Array, " m"]:
    """Tells which members have no finite fitness."""
    return ~jnp.isfinite(fitness)


def centered_rank(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """u_i = rank_i / (m - 1) - 1/2, in [-1/2, 1/2]; ties share their mean rank.

    Failed members tie at the lowest rank. Salimans et al. 2017, section 2.
    """
    fitness = _wide(fitness)
    first, last = _tied_positions(fitness)
    m = fitness.shape[0]
    return (first + last - (m - 1)).astype(fitness.dtype) / (2 * max(m - 1, 1))


def centered_rank_by_order(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """Centered ranks of the published code: tied members get *different* utilities, by position.

    For reproduction only: with all fitnesses equal the utilities, and so the update, are not zero.
    """
    fitness = _wide(fitness)
    m = fitness.shape[0]
    order = jnp.argsort(_sortable(fitness))
    ranks = jnp.zeros(m, fitness.dtype).at[order].set(jnp.arange(m, dtype=fitness.dtype))
    return (ranks - (m - 1) / 2) / max(m - 1, 1)


def wierstra(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """u_i = max(0, ln(m/2 + 1) - ln k_i) / Σ_j max(0, ln(m/2 + 1) - ln j) - 1/m, k_i = 1 the best.

    Ties share the mean of their utilities. Wierstra et al. 2014, section 3.1.
    """
    fitness = _wide(fitness)
    m = fitness.shape[0]
    place = jnp.arange(m, 0, -1, dtype=fitness.dtype)
    raw = jnp.maximum(0.0, jnp.log(m / 2 + 1) - jnp.log(place))
    below = jnp.concatenate([jnp.zeros(1, fitness.dtype), jnp.cumsum(raw / raw.sum() - 1 / m)])
    first, last = _tied_positions(fitness)
    return _unless_flat(fitness, (below[last + 1] - below[first]) / (last + 1 - first))


def standardize(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """u_i = (F_i - mean F) / std F; failed members count as the worst finite one."""
    finite = _worst_if_failed(_wide(fitness))
    # twice in units of the largest, as sums of 1e38 and squares of 1e-24 leave float32's range
    deviation = _in_units_of_largest(finite)
    deviation = _in_units_of_largest(deviation - deviation.mean())
    spread = jnp.sqrt((deviation**2).mean())
    return _unless_flat(finite, deviation / jnp.where(spread > 0, spread, 1.0))


def identity(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """u_i = F_i: raw returns, as in the theory; failed members count as the worst finite one."""
    return _worst_if_failed(_wide(fitness))


def best_directions(shaping: Shaping, number: int) -> Shaping:
    """Makes the shaping that counts b mirrored directions only, those whose better member is best.

    u_i = (n/b) shaping(F of the 2b members)_i of these, 0 of the others: the mean over n directions
    is one over b. Of equals the first count. With ``standardize``, plain gradient ascent and step
    size 2 σ α it is the update of augmented random search of step size α, V1-t and V2-t, or with
    b = n V1 and V2:

    θ ← θ + α / (b std F) Σ_j (F(θ + σ ε_j) - F(θ - σ ε_j)) ε_j.

    Args:
        shaping: fitness of the 2b members -> their utility.
        number: b, the number of directions that count.

    Raises:
        ValueError: if b is not positive; in the shaping, if there are less than b directions or an
            odd number of members.

    Reference: Mania et al. 2018 (arXiv 1803.07055), algorithm 2.
    """
    if number < 1:
        raise ValueError(f"number of best directions must be at least 1, got {number}")

    def shape(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
        m = fitness.shape[0]
        if m % 2 or number > m // 2:
            raise ValueError(f"best_directions: {m} members do not have {number} mirrored pairs")
        fitness = _wide(fitness)
        pairs = fitness.reshape(-1, 2)
        _, best = jax.lax.top_k(_sortable(fitness).reshape(-1, 2).max(1), number)
        counted = shaping(pairs[best].reshape(-1)) * (m // 2 / number)
        return jnp.zeros_like(pairs).at[best].set(counted.reshape(-1, 2)).reshape(-1)

    return shape


def _wide(fitness: Real[Array, " m"]) -> Float[Array, " m"]:
    """The fitness in float32 at least: half precision cannot tell thousands of ranks apart."""
    return fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))


def _in_units_of_largest(x: Float[Array, " m"]) -> Float[Array, " m"]:
    unit = jnp.abs(x).max() / 16  # the reciprocal of 3e38 is subnormal, and flushed to zero
    return x / jnp.where(unit > 0, unit, 1.0)


def _sortable(fitness: Float[Array, " m"]) -> Float[Array, " m"]:
    return jnp.where(failed(fitness), -jnp.inf, fitness)


def _tied_positions(fitness: Float[Array, " m"]) -> tuple[Int[Array, " m"], Int[Array, " m"]]:
    """First and last position, in ascending order, of the members tied with each member."""
    sortable = _sortable(fitness)
    ascending = jnp.sort(sortable)
    first = jnp.searchsorted(ascending, sortable, side="left")
    last = jnp.searchsorted(ascending, sortable, side="right") - 1
    return first, last


def _worst_if_failed(fitness: Float[Array, " m"]) -> Float[Array, " m"]:
    worst = jnp.min(jnp.where(failed(fitness), jnp.inf, fitness))
    return jnp.where(failed(fitness), jnp.where(jnp.isfinite(worst), worst, 0.0), fitness)


def _unless_flat(fitness: Float[Array, " m"], utility: Float[Array, " m"]) -> Float[Array, " m"]:
    sortable = _sortable(fitness)
    return jnp.where(sortable.min() == sortable.max(), jnp.zeros_like(utility), utility)
