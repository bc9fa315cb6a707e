"""Finds the k-th largest magnitude by counting: no sort, and only counts cross devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TRIALS = 8
"""Magnitudes tried in one counting pass; a multiple of four."""

SAMPLE = 2**13
"""Entries of the sample that says where to begin, in vectors at least eight times as long."""

BLOCK = 2**10
"""Entries counted at once on a CPU, whose innermost cache holds their counters."""


class Bracket(NamedTuple):
    """Two magnitudes: at least k entries reach ``low``, at most k reach ``high``."""

    low: Array
    high: Array
    reach_low: Int[Array, ""]
    reach_high: Int[Array, ""]


def bracket_of(leaves: list[Array], k: Int[Array, ""], wide: Any) -> Bracket:
    """Narrows a bracket until k or fewer reach its low end, or no magnitude is inside.

    Each pass counts how many entries reach each of several trial magnitudes. The first trials lie
    where a sample of the entries suggests, the next where even spacing does.

    Args:
        leaves: floating-point arrays, any shapes.
        k: rank of the magnitude looked for, 0 ... entries in all.
        wide: float type that holds every leaf exactly, ``jnp.float32`` or ``jnp.float64``.
    """
    total = sum(leaf.size for leaf in leaves)
    beyond = magnitude_of(jnp.array(jnp.nan, wide), wide) + 1
    bracket = Bracket(jnp.zeros_like(beyond), beyond, jnp.int32(total), jnp.int32(0))
    if total >= 8 * SAMPLE and not any(map(_split, leaves)):
        trials = _trials_of_sample(leaves, k, wide)
        bracket = _narrow(bracket, trials, _reaching(leaves, trials, wide), k)

    def step(bracket: Bracket) -> Bracket:
        trials = _trials(bracket, k)
        return _narrow(bracket, trials, _reaching(leaves, trials, wide), k)

    return jax.lax.while_loop(lambda b: (b.reach_low > k) & (b.high - b.low > 1), step, bracket)


def _narrow(
    bracket: Bracket, trials: Array, reach: Int[Array, " trials"], k: Int[Array, ""]
) -> Bracket:
    """Moves both ends of the bracket to the nearest trials."""
    enough = reach >= k
    return Bracket(
        jnp.max(jnp.where(enough, trials, bracket.low)),
        jnp.min(jnp.where(enough, bracket.high, trials)),
        jnp.min(jnp.where(enough, reach, bracket.reach_low)),
        jnp.max(jnp.where(enough, bracket.reach_high, reach)),
    )


def _trials_of_sample(leaves: list[Array], k: Int[Array, ""], wide: Any) -> Array:
    """Magnitudes between two ranks of a sample that the k-th lies between, but for 3 standard
    deviations of the sample's luck. A sample that misleads costs passes, not exactness."""
    total = sum(leaf.size for leaf in leaves)
    sample = jnp.concatenate([leaf.ravel()[:: total // SAMPLE].astype(wide) for leaf in leaves])
    expected = k.astype(jnp.float32) * (sample.size / total)
    slack = 3 * jnp.sqrt(expected * (1 - expected / sample.size)) + 1
    ranks = expected + jnp.array([1, -1], jnp.float32) * slack
    ranks = jnp.clip(ranks, 1, sample.size).astype(jnp.int32)
    low, high = jax.vmap(lambda rank: bracket_of([sample], rank, wide).low)(ranks)
    return _between(low, high, jnp.linspace(0, 1, TRIALS, dtype=jnp.float32))


def _trials(bracket: Bracket, k: Int[Array, ""]) -> Array:
    """Magnitudes inside the bracket: two at its thirds, which narrow it whatever lies there, the
    others where the k-th is if all are spread evenly, give or take two standard deviations."""
    inside = (bracket.reach_low - bracket.reach_high).astype(jnp.float32)
    share = (bracket.reach_low - k).astype(jnp.float32) / inside
    near = share + jnp.linspace(-1, 1, TRIALS - 2, dtype=jnp.float32) / jnp.sqrt(inside)
    places = jnp.concatenate([jnp.array([1 / 3, 2 / 3], jnp.float32), near])
    return jnp.clip(_between(bracket.low, bracket.high, places), bracket.low + 1, bracket.high - 1)


def _between(low: Array, high: Array, places: Float[Array, " trials"]) -> Array:
    """Integers from ``low`` (at place 0) to ``high`` (at place 1)."""
    width = high - low
    offset = jnp.clip(places, 0, 1) * width.astype(jnp.float32)
    # a float32 may round the width up, beyond the end
    return low + jnp.minimum(offset.astype(low.dtype), width)


def _reaching(leaves: list[Array], trials: Array, wide: Any) -> Int[Array, " trials"]:
    """Counts the magnitudes that reach each trial."""

    def of_leaf(leaf: Array) -> Int[Array, " trials"]:
        if leaf.size < 4 * BLOCK or _split(leaf):
            return _count(leaf, trials, wide)
        return jax.lax.platform_dependent(
            leaf, trials, cpu=_counter_in_blocks(wide), default=lambda x, t: _count(x, t, wide)
        )

    return sum(map(of_leaf, leaves), jnp.zeros(trials.shape, jnp.int32))


def _count(leaf: Array, trials: Array, wide: Any) -> Int[Array, " trials"]:
    magnitude = magnitude_of(leaf, wide)
    return jnp.stack([jnp.sum(magnitude >= t, dtype=jnp.int32) for t in trials])


def _counter_in_blocks(wide: Any) -> Callable[[Array, Array], Int[Array, " trials"]]:
    """Makes the ``_count`` for CPUs: XLA writes the terms of a large sum to memory before it adds
    them, but not those of a loop.

    Four trials share the 32 bits of a counter, so 255 blocks may be counted before it is read.
    """

    def count(leaf: Array, trials: Array) -> Int[Array, " trials"]:
        blocks, flat, fours = leaf.size // BLOCK, leaf.ravel(), trials.reshape(-1, 4)
        shifts = 8 * jnp.arange(4, dtype=jnp.uint32)

        def count_block(i: Array, counters: list[Array]) -> list[Array]:
            magnitude = magnitude_of(jax.lax.dynamic_slice(flat, (i * BLOCK,), (BLOCK,)), wide)
            return [
                counter
                + sum((magnitude >= t).astype(jnp.uint32) << (8 * j) for j, t in enumerate(four))
                for counter, four in zip(counters, fours, strict=True)
            ]

        def count_run(run: Array, reach: Array) -> Array:
            first, zero = 255 * run, [jnp.zeros(BLOCK, jnp.uint32) for _ in fours]
            last = jnp.minimum(first + 255, blocks)
            counters = jnp.stack(jax.lax.fori_loop(first, last, count_block, zero))
            apart = (counters[:, None] >> shifts[None, :, None]) & 255
            return reach + apart.sum(2, dtype=jnp.int32).ravel()

        rest = _count(flat[blocks * BLOCK :], trials, wide)
        return jax.lax.fori_loop(0, -(-blocks // 255), count_run, rest)

    return count


def _split(leaf: Array) -> bool:
    """Whether devices share the leaf by its type: then it is summed as it lies, and not sliced."""
    return any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


def magnitude_of(x: Array, wide: Any) -> Array:
    """|x| as unsigned integers that order as the magnitudes do, every NaN above inf and equal.

    Integers, because a float comparison may flush subnormals to zero, and drops NaN.
    """
    bits = jnp.uint64 if wide is jnp.float64 else jnp.uint32
    pattern = jax.lax.bitcast_convert_type(x.astype(wide), bits)
    magnitude = pattern & jnp.array(jnp.iinfo(bits).max >> 1, bits)
    inf = jax.lax.bitcast_convert_type(jnp.array(jnp.inf, wide), bits)
    return jnp.minimum(magnitude, inf + 1)
