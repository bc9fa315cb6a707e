"""Checks at the public door: what is wrong is refused by name, before it is silently computed."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from nesht_jax.types import Params

SigmaPer = Literal["weight", "output"]
"""What σ is the standard deviation of, see ``nesht``."""


def check_numbers(*, num_members: int, mirrored: bool, sigma: Any, rank: int | None) -> None:
    """Refuses numbers that make no search; a traced σ, or a schedule, passes.

    Raises:
        ValueError: naming the number and what it must be.
    """
    if num_members < 1 or (mirrored and num_members % 2):
        raise ValueError(
            f"num_members must be positive, and even if mirrored, got {num_members}; "
            "a mirrored direction makes two members"
        )
    if not callable(sigma) and not isinstance(sigma, Tracer):
        number = np.asarray(sigma)
        if number.ndim or not 0 < number < math.inf:
            raise ValueError(f"sigma must be one number, positive and finite, got {sigma}")
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, or None for full rank, got {rank}")


def check_sigma_per(sigma_per: SigmaPer | str, rank: int | None) -> None:
    """Refuses what σ cannot be the standard deviation of.

    Raises:
        ValueError: if it is not known, or an output and perturbations have a rank.
    """
    if sigma_per not in get_args(SigmaPer):
        valid = ", ".join(get_args(SigmaPer))
        raise ValueError(f"sigma_per must be one of {valid}, got {sigma_per!r}")
    if sigma_per == "output" and rank is not None:
        raise ValueError(f"rank must be None where sigma is per output, got {rank}")


def check_optimizer(optimizer: Any) -> None:
    """Refuses what is no optax transformation, as ``optax.adam`` without its call.

    Raises:
        TypeError: naming what was given.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax transformation, as optax.adam(0.1), got {optimizer!r}"
        )


def checked_params(params: Params) -> Params:
    """Gives the params as JAX arrays.

    Raises:
        TypeError: naming the first leaf that is no floating-point array.
        ValueError: if there is no weight at all.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "params"
            raise TypeError(
                f"params must be floating-point arrays, but {name} is "
                f"{dtype or type(leaf).__name__}: {leaf!r:.60}"
            )
    params = jax.tree.map(jnp.asarray, params)
    if not sum(leaf.size for leaf in jax.tree.leaves(params)):
        raise ValueError(f"params must hold at least one weight, got {params!r:.60}")
    return params


def checked_fitness(fitness: Any, num_members: int) -> Float[jax.Array, " m"]:
    """Gives the fitness in float32, whatever real dtype a simulator keeps it in.

    Raises:
        ValueError: if its shape is not [m].
        TypeError: if it is not real.
    """
    shape, dtype = np.shape(fitness), jnp.result_type(fitness)
    if shape != (num_members,):
        raise ValueError(
            f"fitness must be one number a member, [{num_members}], got shape {list(shape)}"
        )
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"fitness must be real numbers, got {dtype}")
    if not isinstance(fitness, jax.Array):
        fitness = np.asarray(fitness, np.float32)  # JAX would make integers of 32 bits first
    return jnp.asarray(fitness).astype(jnp.float32)
