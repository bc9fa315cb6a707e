"""Kernels and biases, initialized as in the published MuJoCo code."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

# Dtypes are explicit because flax's default follows jax_enable_x64.


def make_kernel(module: nn.Module, shape: tuple[int, int]) -> Any:
    """Makes the kernel of a layer, a matrix [inputs, features], N(0, 2/(inputs + 1)) at first; in
    ``apply`` it may also be a ``LowRank``."""
    stddev = float(np.sqrt(2 / (shape[0] + 1)))
    return module.param("kernel", nn.initializers.normal(stddev), shape, jnp.float32)


def add_bias(module: nn.Module, y: Float[Array, "*rest out"]) -> Float[Array, "*rest out"]:
    """Adds the bias of a layer, 0 at first, to the product of inputs and kernel."""
    bias = module.param("bias", nn.initializers.zeros, (y.shape[-1],), jnp.float32)
    return y + jnp.broadcast_to(bias, y.shape)
