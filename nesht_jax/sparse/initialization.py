"""First weights of sparse kernels, so that signals keep their scale through few connections."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from nesht_jax.types import Params


def scaled_to_live_fans(params: Params, mask: Params) -> Params:
    """Computes W_ij √(n_in / n_j) of every kernel: outputs vary as much as if all n_in lived.

    n_j is how many of the weights of output j live; what does not live becomes 0.

    Args:
        params: params as they begin; leaves of fewer than two dimensions stay.
        mask: pytree like params, True where a weight lives.

    Reference: Evci et al. 2022 (Gradient flow in sparse neural networks, arXiv 2010.03533),
    section 3.1.
    """

    def scaled(w: Float[Array, "..."], alive: Bool[Array, "..."]) -> Float[Array, "..."]:
        if w.ndim < 2:
            return w
        live = _summed(alive, tuple(range(w.ndim - 1)))
        dense = w.size // w.shape[-1]
        return jnp.where(alive, w * jnp.sqrt(dense / jnp.maximum(live, 1)), 0).astype(w.dtype)

    return jax.tree.map(scaled, params, mask)


def glorot_by_live_fans(key: Key[Array, ""], params: Params, mask: Params) -> Params:
    """Draws every kernel anew, W_ij ~ U(-l, l), l = √(3 / max(1, (n_i + n_j)/2)).

    n_i and n_j are how many weights of input i and of output j live; what does not live is 0.

    Args:
        key: key of the draws.
        params: params as they begin; leaves of other than two dimensions stay.
        mask: pytree like params, True where a weight lives.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), code (rigl, ``fixed_sparse_init``).
    """
    leaves, treedef = jax.tree.flatten(params)

    def drawn(i: int, w: Float[Array, "..."], alive: Bool[Array, "..."]) -> Float[Array, "..."]:
        if w.ndim != 2:
            return jnp.where(alive, w, 0)
        live_in, live_out = _summed(alive, (0,)), _summed(alive, (1,))
        bound = jnp.sqrt(3 / jnp.maximum(1, (live_in + live_out) / 2))
        draws = jax.random.uniform(jax.random.fold_in(key, i), w.shape, w.dtype, -1, 1)
        return jnp.where(alive, bound * draws, 0).astype(w.dtype)

    masks = jax.tree.leaves(mask)
    new = [drawn(i, w, alive) for i, (w, alive) in enumerate(zip(leaves, masks, strict=True))]
    return jax.tree.unflatten(treedef, new)


def _summed(alive: Bool[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    return jnp.sum(alive, axes, dtype=jnp.float32, keepdims=True)
