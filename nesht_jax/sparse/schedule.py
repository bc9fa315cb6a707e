"""How much is zeroed, or replaced, at which update."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nesht_jax.sparse.top_k import Share

Time = int | Int[Array, ""]
"""Number of an update, counted from 0."""


def is_due(time: Time, *, every: int, begin: int = 0, end: int | None = None) -> Bool[Array, ""]:
    """Says whether masks change at an update: at begin, begin + every, ..., not after ``end``.

    Reference: Graesser et al. 2022, code (rigl, ``mask_updaters.py``), where begin is 0.
    """
    since = jnp.asarray(time, jnp.int32) - begin
    due = (since >= 0) & (since % every == 0)
    return due if end is None else due & (since <= end - begin)


def cosine(time: Time, *, begin: int = 0, end: int | None = None) -> Float[Array, ""]:
    """Computes (1 + cos π p)/2, which falls from 1 at ``begin`` to 0 at ``end``; 1 without end.

    p = clip((t - begin)/(end - begin), 0, 1).

    Reference: Evci et al. 2020 (RigL, arXiv 1911.11134), section 3 (2), f_decay.
    """
    if end is None:
        return jnp.float32(1)
    return 0.5 * (1 + jnp.cos(jnp.pi * _progress(time, begin, end)))


def cubic(time: Time, *, begin: int, end: int) -> Float[Array, ""]:
    """Computes 1 - (1 - p)³, which grows from 0 at ``begin`` to 1 at ``end``: fast, then slowly.

    p = clip((t - begin)/(end - begin), 0, 1).

    Reference: Zhu and Gupta 2018 (arXiv 1710.01878), equation 1, of s_i = 0.
    """
    return 1 - (1 - _progress(time, begin, end)) ** 3


def _progress(time: Time, begin: int, end: int) -> Float[Array, ""]:
    since = jnp.asarray(time, jnp.int32) - begin
    return jnp.clip(since.astype(jnp.float32) / (end - begin), 0, 1)


def num_dropped(number: int, fraction: Share) -> Int[Array, ""]:
    """Computes ⌊n f⌋, how many of n living weights are dropped."""
    return jnp.floor(number * jnp.asarray(fraction, jnp.float32)).astype(jnp.int32)


def num_pruned(size: int, number: int, share: Share) -> Int[Array, ""]:
    """Computes how many of d weights live once a share of what is to go has gone: d, then n."""
    share = jnp.asarray(share, jnp.float32)
    gone = jnp.round((size - number) * share).astype(jnp.int32)
    # float32 has no odd numbers beyond 2^24
    return jnp.where(share < 1, jnp.clip(size - gone, number, size), number)
