"""Perturbations, regenerated from (key, direction) wherever they are needed and never stored."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from nesht_jax.types import LowRank, Params


def perturbation(
    key: Key[Array, ""],
    direction: int | Int[Array, ""],
    params: Params,
    *,
    rank: int | None = None,
) -> Params:
    """Draws ε ~ N(0, I_d) of one direction, shaped like ``params``.

    With a rank r, a matrix [in, out] of more than r·(in + out) entries gets ε = A Bᵀ/√r instead, a
    ``LowRank`` with A [in, r] and B [out, r] ~ N(0, I). Its entries are uncorrelated, of mean 0 and
    variance 1 as before, and odd moments vanish: where F is quadratic, the gradient stays without
    bias, and else the bias is O(σ²/r). The price is variance: for a matrix C,
    E‖ε⟨ε, C⟩‖² = ‖C‖²(in·out + 2 + 2(in + out + 1)/r), where full rank has ‖C‖²(in·out + 2).

    The result is a function of ``(key, direction)`` alone: its bits depend neither on how many
    directions are drawn together, nor on their order, nor on the devices that draw them, nor on
    JAX's ambient settings. Under ``vmap`` over keys of the ``rbg`` kinds JAX itself gives no such
    promise: use the default kind of keys for a ``vmap`` over seeds.

    Args:
        key: key of the generation's noise; one key serves all its directions.
        direction: index in [0, n).
        params: pytree that gives shapes and dtypes; its values are not read.
        rank: r of matrices; None for full rank.

    Reference of the low rank: EGGROLL, Sarkar et al. 2025 (arXiv 2511.16652).
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.bits(key, (len(leaves), 2), jnp.uint32)  # under x64 the default is 64 bits
    drawn = [_drawn(k, direction, leaf, rank) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def _drawn(
    key: UInt32[Array, "2"], direction: int | Int[Array, ""], leaf: Any, rank: int | None
) -> Float[Array, "..."] | LowRank:
    if rank is None or leaf.ndim != 2 or leaf.size <= rank * sum(leaf.shape):
        return normal(key, direction, leaf.shape).astype(leaf.dtype)
    factors = normal(key, direction, (sum(leaf.shape), rank)).astype(leaf.dtype)
    a, b = factors[: leaf.shape[0]], factors[leaf.shape[0] :]
    return LowRank(None, rank**-0.5 * a, b)


def fan_ins(params: Params, support: Params | None = None) -> Params:
    """Counts the perturbed weights into each output: of a leaf [..., out] gives [1, ..., out].

    The weights into an output are those of all leaves of its module that have as many outputs, as
    a kernel [in, out] and a bias [out]; an output that has none counts as one that has one.

    Args:
        params: pytree that gives shapes; its values are not read.
        support: pytree like params, True where weights are perturbed; None: everywhere.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    perturbed = jax.tree.leaves(jax.tree.map(jnp.ones_like, params) if support is None else support)
    layers = [(path[:-1], leaf.shape[-1:]) for path, leaf in leaves]
    counts: dict[Any, Array] = {}
    for layer, mask in zip(layers, perturbed, strict=True):
        into = mask.astype(jnp.float32).sum(tuple(range(mask.ndim - 1)))
        counts[layer] = counts.get(layer, jnp.float32(0)) + into
    told = [
        jnp.maximum(1, counts[layer]).reshape([1] * (leaf.ndim - 1) + list(leaf.shape[-1:]))
        for layer, (_, leaf) in zip(layers, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, told)


def normal(
    key: UInt32[Array, "2"], stream: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Draws N(0, 1) in float32; entry e of a stream is a function of (key, stream, e) alone.

    The generator is that of ``jax.random.normal``, which on a CPU is compiled to a loop over arrays
    in memory and uses one of the two numbers that each counter gives: here it is unrolled, and both
    are used.
    """
    size = math.prod(shape)
    counters = jnp.arange(-(-size // 2), dtype=jnp.uint32)
    streams = jnp.full_like(counters, stream)
    bits = jnp.concatenate(threefry(key, counters, streams))
    return quantile(bits[:size].reshape(shape))


def quantile(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Maps 32 random bits to the quantile of N(0, 1) at the middle of one of 2²³ equal parts of
    (0, 1), so that no value is infinite: the largest is 5.3."""
    # the upper 23 bits become the mantissa of a float in [1, 2)
    mantissa = jax.lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    symmetric = 2 * (mantissa - 1.5) + 2**-23
    return math.sqrt(2) * jax.lax.erf_inv(symmetric)


ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Bits by which Threefry-2x32 rotates in even groups of four rounds, and in odd ones."""


def threefry(
    key: UInt32[Array, "2"], high: UInt32[Array, " n"], low: UInt32[Array, " n"]
) -> tuple[UInt32[Array, " n"], UInt32[Array, " n"]]:
    """Computes Threefry-2x32 with 20 rounds: two random 32-bit numbers of each counter (high, low).

    Reference: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, y = high + keys[0], low + keys[1]
    if high.size == 1:
        # XLA's CPU compiler copies what is unrolled of one number into each of its uses: 2²⁰ times
        looked_up, rotations = jnp.stack(keys), jnp.array(ROTATIONS, jnp.uint32)
        return jax.lax.fori_loop(
            0, 5, lambda g, xy: _four_rounds(looked_up, rotations[g % 2], g, *xy), (x, y)
        )
    for group in range(5):
        x, y = _four_rounds(keys, ROTATIONS[group % 2], group, x, y)
    return x, y


def _four_rounds(keys: Any, rotations: Any, group: Any, x: Array, y: Array) -> tuple[Array, Array]:
    for r in rotations:
        x = x + y
        y = ((y << r) | (y >> (32 - r))) ^ x
    x = x + keys[(group + 1) % 3]
    y = y + keys[(group + 2) % 3] + jnp.asarray(group + 1, jnp.uint32)
    return x, y
