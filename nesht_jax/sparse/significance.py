"""Which weights matter, told from those that are known not to: the exact null of a mirrored search.

A weight that no policy reads is perturbed and updated as the others are, but its perturbation is
independent of the fitness. So the values of such phantoms, all alike, are drawn from the law of
every weight that does not matter, and that began to walk from the same value when they did; of one
that has walked longer the variance is the sum of theirs. That holds of gradient ascent, whose steps
are independent. Moments of an optimizer make them alike, so that more lives than the level says,
and make the steps of weights that are tried in turn differ from the phantoms'.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nesht_jax.sparse.top_k import Share
from nesht_jax.types import PHANTOM, Params

NUMBER = 128
"""Phantoms in a policy unless told otherwise: their deviation is then known within 6 per cent."""


def with_phantoms(params: Mapping[str, Any], number: int = NUMBER) -> Params:
    """Adds a leaf of phantoms, which flax networks leave unread, to the params of a policy.

    Args:
        params: params of the policy, a mapping at its top.
        number: how many phantoms; they begin at 0, as what they judge.
    """
    return {**params, PHANTOM: jnp.zeros(number, jnp.float32)}


def p_values(
    energy: Float[Array, " u"],
    sizes: Int[Array, " u"],
    variance: Float[Array, " u"],
    number: int,
) -> Float[Array, " u"]:
    """Computes P(F ≥ f), f = (‖θ_u‖² / a) / s², F of the F-distribution with (a, P) degrees.

    That is exact where the a weights of a unit are N(0, σ²) and s² is the mean square of P phantoms
    that are so too, with the same, unknown, σ; and close to it where s² is a sum of such. Phantoms
    that have not moved tell nothing: every p is then 1.

    Args:
        energy: ‖θ_u‖² of every unit.
        sizes: a, the number of weights of every unit.
        variance: s² of every unit.
        number: P, how many phantoms tell it.
    """
    null = number * variance
    # P(F >= f) = I_{P/(P + a f)}(P/2, a/2), and a f = energy P / null
    rest = null / jnp.where(null > 0, null + energy, 1)
    tail = jax.scipy.special.betainc(number / 2, sizes / 2, jnp.clip(rest, 0, 1))
    return jnp.where((null > 0) & (energy > 0), tail, 1.0)


def benjamini_hochberg(p: Float[Array, " u"], level: Share) -> Bool[Array, " u"]:
    """Rejects the nulls so that of the rejected at most a share ``level`` is expected to be true.

    The largest i with p_(i) ≤ level · i / u; all up to p_(i) are rejected. Exact for independent p.

    Reference: Benjamini and Hochberg 1995, section 3.1.
    """
    ascending = jnp.sort(p)
    passes = ascending <= level * jnp.arange(1, p.size + 1, dtype=p.dtype) / p.size
    bar = jnp.max(ascending, where=passes, initial=-1.0)
    return p <= bar
