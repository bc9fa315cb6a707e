"""The functions between layers, and a layer whose units each have their own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

REACH = 10.0
"""Largest argument of the exponential function and largest reciprocal, which would overflow."""


def _exp(x: Array) -> Array:
    return jnp.exp(jnp.minimum(x, REACH))


def _reciprocal(x: Array) -> Array:
    far = jnp.where(jnp.abs(x) < 1 / REACH, jnp.where(x < 0, -1 / REACH, 1 / REACH), x)
    return 1 / far


def _step(x: Array) -> Array:
    return (x > 0).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "exp": _exp,
    "identity": lambda x: x,
    "sin": jnp.sin,
    "sigmoid": jax.nn.sigmoid,
    "abs": jnp.abs,
    "cos": jnp.cos,
    "square": jnp.square,
    "reciprocal": _reciprocal,
    "step": _step,
}
"""The functions that a search chooses among, in the order of their numbers.

Of Gaier and Ha 2019 (arXiv 1906.04358), as listed by ES-ENAS (arXiv 2101.07415), appendix C.2.3.
"""

CHOICE = "choice"
"""Name of the leaf of params that says by number which function a unit has: no weight."""


class Chosen(nn.Module):
    """Functions of ``ACTIVATIONS``, one for each unit; params hold their numbers as ``choice``."""

    @nn.compact
    def __call__(self, x: Float[Array, " units"]) -> Float[Array, " units"]:
        choice = self.param(CHOICE, nn.initializers.zeros, x.shape, jnp.int32)
        values = jnp.stack([function(x) for function in ACTIVATIONS.values()])
        return jnp.take_along_axis(values, choice[None], axis=0)[0]
