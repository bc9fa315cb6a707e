"""Perturbations, regenerated from (key, direction) wherever they are needed: never a table."""

from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from nesht_jax.contract import LowRank, Params


def perturbation(
    key: Key[Array, ""],
    direction: int | Int[Array, ""],
    params: Params,
    *,
    rank: int | None = None,
) -> Params:
    """ε ~ N(0, I_d) of one direction, shaped like ``params``.

    With a rank r, a matrix [in, out] of more than r·(in + out) entries gets ε = A Bᵀ/√r instead, a
    ``LowRank`` with A [in, r] and B [out, r] ~ N(0, I). Its entries are uncorrelated, of mean 0 and
    variance 1 as before, and odd moments vanish: where F is quadratic, the gradient stays without
    bias, and else the bias is O(σ²/r). The price is variance: for a matrix C,
    E‖ε⟨ε, C⟩‖² = ‖C‖²(in·out + 2 + 2(in + out + 1)/r), where full rank has ‖C‖²(in·out + 2).

    A function of ``(key, direction)`` alone: the bits depend neither on how many directions are
    drawn together, nor on their order, nor on the devices that draw them. This holds for
    ``threefry`` keys, JAX's default; ``rbg`` keys give other bits under ``vmap``.

    Args:
        key: the generation's key; one key serves all its directions.
        direction: index in [0, n).
        params: gives shapes and dtypes; the values are not read.
        rank: r; None for full rank.

    Reference of the low rank: EGGROLL, Sarkar et al. 2025 (arXiv 2511.16652).
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, direction), len(leaves))
    drawn = [_normal(k, leaf, rank) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def _normal(key: Key[Array, ""], leaf: Any, rank: int | None) -> Float[Array, "..."] | LowRank:
    if rank is None or leaf.ndim != 2 or leaf.size <= rank * sum(leaf.shape):
        return jax.random.normal(key, leaf.shape, leaf.dtype)
    factors = jax.random.normal(key, (sum(leaf.shape), rank), leaf.dtype)
    a, b = factors[: leaf.shape[0]], factors[leaf.shape[0] :]
    return LowRank(None, rank**-0.5 * a, b)
