"""The operator H_k: keep the k entries of largest magnitude, zero the others."""

import itertools
import math
import operator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, UInt

from nesht_jax.sparse.kth_magnitude import bracket_of, magnitude_of
from nesht_jax.types import Params

Count = int | np.integer | Int[Array, ""] | UInt[Array, ""]
"""A number of things: a Python, NumPy or JAX integer."""

Share = int | float | np.floating | Float[Array, ""]
"""A fraction."""

MILLION = 10**6

REAL_KINDS = "fiuV"
"""NumPy's letters for kinds of real numbers; V is bfloat16."""


# --------------------------------------------------------------------------- how many are kept


def checked_count(name: str, count: Any, *, least: int = 1) -> Any:
    """Returns a count as a Python integer, or as it is where it is traced.

    Raises:
        TypeError: if it is no integer; 0.1 must not pass for 0, nor True for 1.
        ValueError: if it is below ``least``. The value of a traced count is not known, and not
            checked.
    """
    dtype = getattr(count, "dtype", None)
    is_integer = np.ndim(count) == 0 and (dtype is None or jnp.issubdtype(dtype, jnp.integer))
    if isinstance(count, Tracer):
        if is_integer:
            return count
        raise TypeError(f"{name} must be an integer, got {jax.typeof(count)}: round a schedule")
    if isinstance(count, bool) or not is_integer or not hasattr(count, "__index__"):
        kind = "a positive integer" if least == 1 else "an integer"
        raise TypeError(f"{name} must be {kind}, got {count!r}")
    if (number := operator.index(count)) < least:
        raise ValueError(f"{name} must be at least {least}, got {count!r}")
    return number


def checked_sparsity(sparsity: Any) -> Any:
    """Returns a sparsity, whose value is not checked where it is traced.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1), or NaN.
    """
    if isinstance(sparsity, Tracer):
        if sparsity.dtype.kind in REAL_KINDS and sparsity.ndim == 0:
            return sparsity
        raise TypeError(f"sparsity must be a number, got {jax.typeof(sparsity)}")
    number = np.asarray(sparsity)[()]  # NumPy's, as under jit a comparison of JAX's is traced
    if np.ndim(number) != 0 or np.asarray(number).dtype.kind not in REAL_KINDS:
        raise TypeError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    if not 0 <= number < 1:
        raise ValueError(
            f"sparsity must be in [0, 1), got {sparsity}; to keep nothing makes no policy"
        )
    return sparsity


def num_kept(d: int, sparsity: Share) -> int:
    """Computes k = d - floor(β d), with β the decimal that was written: 0.29 of 100 leaves 71.

    Args:
        d: number of weights.
        sparsity: β, the fraction of them zeroed, not traced.

    Raises:
        ValueError: if β is outside [0, 1).
    """
    # 0.29 * 100 is 28.999999999999996 in floats; str gives back the decimal, whose floor is 29
    decimal = str(np.asarray(checked_sparsity(sparsity))[()])
    return d - math.floor(Fraction(decimal) * d)


def num_kept_of_array(d: int, sparsity: Float[Array, ""]) -> Int[Array, ""]:
    """Computes ``num_kept`` of a β that JAX computed, rounded to six decimals, clipped to [0, 1).

    So a float32 that is a decimal of up to six digits, but for its rounding, gives what
    ``num_kept`` gives of the decimal. NaN is taken for 0.
    """
    positive = jnp.where(sparsity > 0, sparsity.astype(jnp.float32), 0)
    parts = jnp.round(jnp.minimum(positive, 1) * MILLION).astype(jnp.int32)
    parts = jnp.minimum(parts, MILLION - 1)
    # floor(parts · d / 10⁶) by schoolbook multiplication, as no term may reach 2³¹
    whole, rest = divmod(d, MILLION)
    thousands, ones = jnp.divmod(parts, jnp.int32(1000))
    upper, lower = jnp.divmod(thousands * rest, jnp.int32(1000))
    zeroed = parts * whole + upper + (lower * 1000 + ones * rest) // MILLION
    return d - zeroed


# -------------------------------------------------------------------------------- the operator


def hard_threshold(params: Params, k: Count) -> Params:
    """Computes H_k(x), the nearest point to x with at most k non-zero entries.

    Keeps exactly min(k, d) entries, by magnitude over all leaves together. Ties go to the lowest
    flat index. NaN counts as the largest magnitude, so that it is never hidden.

    Args:
        params: any pytree of floating-point arrays.
        k: number of entries kept, at least 1. It may be traced, so a sweep over k is a ``vmap``;
            then what is below 1 keeps nothing.

    Raises:
        TypeError: if a leaf is not floating-point, or k no integer.
        ValueError: if k is below 1.
    """
    return zero_dead(params, top_k_mask(params, k))


def zero_dead(params: Params, mask: Params) -> Params:
    """Zeroes the weights that a mask says are dead."""
    return jax.tree.map(lambda x, alive: jnp.where(alive, x, 0), params, mask)


def top_k_mask(params: Params, k: Count) -> Params:
    """Makes the mask of H_k: True at the min(k, d) entries that it keeps.

    Searches for a magnitude that exactly k entries reach, several trials a counting pass, the first
    of them between those that a sample suggests: exact, O(d) memory, no sort, and counts are all
    that crosses devices. Where the k-th magnitude is tied there is none; then the flat index up to
    which the tied are kept is searched by bisection.
    """
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"hard_threshold needs floating-point leaves, got {leaf.dtype}")
    if (total := sum(leaf.size for leaf in leaves)) == 0:
        return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), params)
    k = _at_most(checked_count("k", k), total)
    return jax.tree.unflatten(treedef, _masks(leaves, k))


@jax.jit  # compiled once for leaves of these shapes, whatever calls it
def _masks(leaves: list[Array], k: Int[Array, ""]) -> list[Bool[Array, "..."]]:
    wide = jnp.float64 if any(leaf.dtype.itemsize == 8 for leaf in leaves) else jnp.float32
    found = bracket_of(leaves, k, wide)
    # kept are all that reach the bar and the first of those just below it, as many as are wanted
    exact = found.reach_low <= k
    bar = jnp.where(exact, found.low, found.high)
    wanted = k - jnp.where(exact, found.reach_low, found.reach_high)
    return [
        (magnitude_of(leaf, wide) >= bar) | tied
        for leaf, tied in zip(leaves, _first_at(bar - 1, leaves, wanted, wide), strict=True)
    ]


def _at_most(k: Any, total: int) -> Int[Array, ""]:
    """Cuts k, of whatever integer type and however large, to 0 ... total, which fits 32 bits."""
    if isinstance(k, int):
        return jnp.int32(min(k, total))
    bound = min(total, jnp.iinfo(k.dtype).max)
    return jnp.clip(k, 0, bound).astype(jnp.int32)


def _first_at(
    magnitude: Array, leaves: list[Array], wanted: Int[Array, ""], wide: Any
) -> list[Array]:
    """Masks of the first ``wanted`` entries of one magnitude, by flat index over all leaves."""
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))

    def up_to(bound: Int[Array, ""]) -> list[Array]:
        return [
            (magnitude_of(leaf, wide) == magnitude)
            & (end - leaf.size + jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape) < bound)
            for end, leaf in zip(ends, leaves, strict=True)
        ]

    bits = ends[-1].bit_length()

    def set_bit(i: Int[Array, ""], bound: Int[Array, ""]) -> Int[Array, ""]:
        trial = bound | (jnp.int32(1) << (bits - 1 - i.astype(jnp.int32)))
        counts = [jnp.sum(mask, dtype=jnp.int32) for mask in up_to(trial)]
        return jnp.where(jnp.stack(counts).sum(dtype=jnp.int32) <= wanted, trial, bound)

    # without ties none is wanted, and no pass is made
    bound = jax.lax.cond(
        wanted > 0, lambda: jax.lax.fori_loop(0, bits, set_bit, jnp.int32(0)), lambda: jnp.int32(0)
    )
    return up_to(bound)
