"""Utility and noise to NES gradient: ∇F_σ(θ) for F_σ(θ) = E_ε F(θ + σε), ε ~ N(0, I_d)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nesht_jax.contract import Params

CHUNK_ENTRIES = 2**22
"""Noise entries regenerated at once: 16 MiB in float32, whatever m and d."""


def one_sided(utility: Float[Array, " m"]) -> Float[Array, " n"]:
    """Weights of the directions when member i is θ + σ ε_i: (1/m) u_i."""
    return utility / utility.shape[0]


def mirrored(utility: Float[Array, " m"]) -> Float[Array, " n"]:
    """Weights of the directions when members 2j, 2j + 1 are θ ± σ ε_j: (1/m) (u_2j - u_2j+1).

    Zero on any even F, exact on a linear F given the drawn ε. Salimans et al. 2017, section 2.1.
    """
    pairs = utility.reshape(-1, 2)
    return (pairs[:, 0] - pairs[:, 1]) / utility.shape[0]


def nes_gradient(
    perturbation: Callable[[Int[Array, ""]], Params],
    weights: Float[Array, " n"],
    sigma: float | Float[Array, ""],
) -> Params:
    """g = (1/σ) Σ_j w_j ε_j, with the ε_j regenerated a chunk at a time and never stored whole.

    Args:
        perturbation: direction j -> ε_j.
        weights: one a direction: ``one_sided`` or ``mirrored`` of the utilities.
        sigma: scale of the perturbations, in units of the parameters.
    """
    (n,) = weights.shape
    like = jax.eval_shape(perturbation, jnp.int32(0))
    d = sum(leaf.size for leaf in jax.tree.leaves(like))
    size = min(n, max(1, CHUNK_ENTRIES // d))
    chunks = -(-n // size)
    directions = jnp.arange(chunks * size, dtype=jnp.int32).reshape(chunks, size)
    padded = jnp.pad(weights, (0, chunks * size - n)).reshape(chunks, size)

    def add(total: Params, chunk: tuple[Array, Array]) -> tuple[Params, None]:
        indices, w = chunk
        noise = jax.vmap(perturbation)(indices)
        part = jax.tree.map(lambda e: jnp.tensordot(w.astype(e.dtype), e, 1), noise)
        return jax.tree.map(jnp.add, total, part), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = jax.lax.scan(add, zero, (directions, padded))
    return jax.tree.map(lambda leaf: (leaf / sigma).astype(leaf.dtype), total)
