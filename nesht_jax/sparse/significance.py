"""Which weights matter, told from those that are known not to: the exact null of a mirrored search.

A weight that no policy reads is perturbed and updated as the others are, but its perturbation is
independent of the fitness. So the values of such phantoms, all alike, are drawn from the law of
every weight that does not matter. Where dead weights are tried in turn this holds of gradient
ascent; moments of an optimizer make the steps of the seldom perturbed differ from the phantoms'.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.types import PHANTOM, Params

NUMBER = 128
"""Phantoms in a policy unless told otherwise: their deviation is then known within 6 per cent."""


def with_phantoms(
    key: Key[Array, ""], params: Mapping[str, Any], like: Float[Array, "..."], number: int = NUMBER
) -> Params:
    """Adds a leaf of phantoms, which flax networks leave unread, to the params of a policy.

    Args:
        key: key of their first values.
        params: params of the policy, a mapping at its top.
        like: kernel that is judged by them, from whose entries they begin.
        number: how many phantoms.
    """
    return {**params, PHANTOM: jax.random.choice(key, like.ravel(), (number,))}


def p_values(
    energy: Float[Array, " u"], sizes: Int[Array, " u"], phantoms: Float[Array, " number"]
) -> Float[Array, " u"]:
    """Computes P(F ≥ f), f = (‖θ_u‖² / a) / mean φ², F of the F-distribution with (a, P) degrees.

    That is exact where the a weights of a unit and the P phantoms φ are N(0, s²) with the same,
    unknown, s. Phantoms that have not moved tell nothing: every p is then 1.

    Args:
        energy: ‖θ_u‖² of every unit.
        sizes: a, the number of weights of every unit.
        phantoms: φ.
    """
    number = phantoms.size
    null = jnp.sum(jnp.square(phantoms.astype(jnp.float32)))
    # P(F >= f) = I_{P/(P + a f)}(P/2, a/2), and a f = energy P / null
    rest = null / jnp.where(null > 0, null + energy, 1)
    tail = jax.scipy.special.betainc(number / 2, sizes / 2, jnp.clip(rest, 0, 1))
    return jnp.where((null > 0) & (energy > 0), tail, 1.0)


def benjamini_hochberg(p: Float[Array, " u"], level: float | Float[Array, ""]) -> Bool[Array, " u"]:
    """Rejects the nulls so that of the rejected at most a share ``level`` is expected to be true.

    The largest i with p_(i) ≤ level · i / u; all up to p_(i) are rejected. Exact for independent p.
    What has p = 1 was not tested, and is none of the u.

    Reference: Benjamini and Hochberg 1995, section 3.1.
    """
    ascending = jnp.sort(p)
    tested = jnp.sum(p < 1).astype(p.dtype)
    passes = (ascending < 1) & (
        ascending * tested <= level * jnp.arange(1, p.size + 1, dtype=p.dtype)
    )
    bar = jnp.max(ascending, where=passes, initial=-1.0)
    return p <= bar
