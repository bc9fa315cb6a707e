"""Utility and noise to NES gradient: ∇F_σ(θ) for F_σ(θ) = E_ε F(θ + σε), ε ~ N(0, I_d)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nesht_jax.types import LowRank, Params, is_low_rank

CHUNK_ENTRIES = 2**22
"""Noise entries regenerated at once: 16 MiB in float32, whatever m and d."""


SumNoise = Callable[..., Params]
"""``(perturbation, weights) -> Σ_j w_j ε_j``, as ``weighted_noise`` or ``shares.shared_noise``."""


def one_sided(utility: Float[Array, " m"]) -> Float[Array, " n"]:
    """Weighs the directions when member i is θ + σ ε_i: (1/m) u_i."""
    return utility / utility.shape[0]


def mirrored(utility: Float[Array, " m"]) -> Float[Array, " n"]:
    """Weighs the directions when members 2j, 2j + 1 are θ ± σ ε_j: (1/m) (u_2j - u_2j+1).

    Zero on any even F, exact on a linear F given the drawn ε. Salimans et al. 2017, section 2.1.
    """
    pairs = utility.reshape(-1, 2)
    return (pairs[:, 0] - pairs[:, 1]) / utility.shape[0]


def nes_gradient(
    perturbation: Callable[[Int[Array, ""]], Params],
    weights: Float[Array, " n"],
    sigma: float | Float[Array, ""],
    *,
    sum_noise: SumNoise | None = None,
) -> Params:
    """Computes g = (1/σ) Σ_j w_j ε_j.

    Args:
        perturbation: direction j -> ε_j.
        weights: weight of each direction: ``one_sided`` or ``mirrored`` of the utilities.
        sigma: σ, standard deviation of the perturbations, in units of params.
        sum_noise: what computes the sum; None: ``weighted_noise``, on one device.
    """
    like = jax.eval_shape(perturbation, jnp.int32(0))
    total = (sum_noise or weighted_noise)(perturbation, weights)
    return jax.tree.map(
        lambda e, g: (g / sigma).astype(_dtype(e)), like, total, is_leaf=is_low_rank
    )


def weighted_noise(
    perturbation: Callable[[Int[Array, ""]], Params],
    weights: Float[Array, " n"],
    *,
    first: int | Int[Array, ""] = 0,
) -> Params:
    """Computes Σ_j w_j ε_(first + j), with the noise made anew a chunk at a time, never stored
    whole; in float32 at least, low-rank noise multiplied out.

    Args:
        perturbation: direction -> noise.
        weights: weight of each direction.
        first: number of the first direction.
    """
    (n,) = weights.shape
    like = jax.eval_shape(perturbation, jnp.int32(0))
    d = sum(leaf.size for leaf in jax.tree.leaves(like))
    size = min(n, max(1, CHUNK_ENTRIES // d))
    chunks = -(-n // size)
    size = -(-n // chunks)  # alike, so that hardly a direction is drawn in vain
    directions = jnp.arange(chunks * size, dtype=jnp.int32).reshape(chunks, size)
    padded = jnp.pad(weights, (0, chunks * size - n)).reshape(chunks, size)

    def add(total: Params, chunk: tuple[Array, Array]) -> tuple[Params, None]:
        indices, w = chunk
        noise = jax.vmap(perturbation)(first + indices)
        return jax.tree.map(jnp.add, total, _weighted_sum(w, noise)), None

    whole = jax.eval_shape(lambda: _weighted_sum(padded[0], jax.vmap(perturbation)(directions[0])))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), whole)
    total, _ = jax.lax.scan(add, zero, (directions, padded))
    return total


def signal_to_noise(
    g: Params,
    weights: Float[Array, " n"],
    sigma: float | Float[Array, ""],
    support: Params | None = None,
) -> Float[Array, ""]:
    """Computes the mean over the perturbed weights of |σ g| / (√n ‖w‖₂).

    σ g / n is the mean of the n samples w_j ε_j, and ‖w‖₂ / √n their standard deviation, but for
    what the mean explains of it: as ε_j has variance 1, whatever w. 0 where all w_j are 0.

    Args:
        g: NES gradient.
        weights: weight of each direction, as ``nes_gradient`` was given.
        sigma: σ, likewise.
        support: pytree like g, True where weights were perturbed; None: everywhere.
    """
    leaves = jax.tree.leaves(g)
    number: Any = sum(leaf.size for leaf in leaves)
    if support is not None:
        number = jnp.maximum(1, sum(leaf.sum() for leaf in jax.tree.leaves(support)))
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    mean = sum(jnp.sum(jnp.abs(leaf)) for leaf in wide) / number
    noise = jnp.sqrt(jnp.float32(weights.size)) * jnp.linalg.norm(weights)
    # or XLA multiplies constants beforehand, to other bits where σ is one than where it is traced
    mean = jax.lax.optimization_barrier(mean)
    return (sigma * mean / jnp.where(noise > 0, noise, jnp.inf)).astype(jnp.float32)


def _weighted_sum(weights: Float[Array, " n"], noise: Params) -> Params:
    """Σ_j w_j ε_j, in float32 at least.

    Of low-rank matrices Σ_j (w_j A_j) B_jᵀ, one product over directions and rank.
    """

    def contract(e: Float[Array, "n ..."] | LowRank) -> Float[Array, "..."]:
        wide = jnp.promote_types(_dtype(e), jnp.float32)
        w, e = weights.astype(wide), jax.tree.map(lambda x: x.astype(wide), e)
        if isinstance(e, LowRank):
            return jnp.einsum("nir,nor->io", w[:, None, None] * e.a, e.b)
        return jnp.tensordot(w, e, 1)

    return jax.tree.map(contract, noise, is_leaf=is_low_rank)


def _dtype(leaf: Any) -> Any:
    return leaf.a.dtype if isinstance(leaf, LowRank) else leaf.dtype
