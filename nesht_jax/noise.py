"""Perturbations, regenerated from (key, direction) wherever they are needed: never a table."""

import jax
from jaxtyping import Array, Int, Key

from nesht_jax.contract import Params


def perturbation(key: Key[Array, ""], direction: int | Int[Array, ""], params: Params) -> Params:
    """ε ~ N(0, I_d) of one direction, shaped like ``params``.

    A function of ``(key, direction)`` alone: the bits depend neither on how many directions are
    drawn together, nor on their order, nor on the devices that draw them. This holds for
    ``threefry`` keys, JAX's default; ``rbg`` keys give other bits under ``vmap``.

    Args:
        key: the generation's key; one key serves all its directions.
        direction: index in [0, n).
        params: gives shapes and dtypes; the values are not read.
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, direction), len(leaves))
    normals = [
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, normals)
