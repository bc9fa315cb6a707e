"""Networks of dense layers whose first weights are drawn as published agents draw theirs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nesht_jax.policy.network import Network, layers_of
from nesht_jax.types import Layer, Params

Initializer = Callable[..., Float[Array, "in out"]]
"""``(key, shape, dtype) -> kernel``, as those of ``jax.nn.initializers``."""


class Mlp(NamedTuple):
    """The pure functions of a network of dense layers.

    Attributes:
        init: key -> params.
        apply: (params, inputs [in]) -> outputs [out].
        layers: the layers, first to last.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Float[Array, " in"]], Float[Array, " out"]]
    layers: tuple[Layer, ...]


def make_mlp(
    num_inputs: int,
    sizes: tuple[int, ...],
    *,
    activation: Callable[[Array], Array],
    hidden_kernel: Initializer,
    last_kernel: Initializer,
    last_bias: float = 0.0,
) -> Mlp:
    """Makes a network of the layers and params of a policy's, with initial values of its own.

    Args:
        num_inputs: features of an input.
        sizes: widths of the layers; the last is the number of outputs.
        activation: function between layers.
        hidden_kernel: what draws the kernels of all layers but the last; their biases are 0.
        last_kernel: what draws the kernel of the last layer.
        last_bias: bias of every output.
    """
    network = Network(sizes, activation)
    *hidden, last = layers_of(network, num_inputs)

    def init(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, len(sizes))
        drawn = [(layer, hidden_kernel, 0.0) for layer in hidden] + [(last, last_kernel, last_bias)]
        return {
            layer.name: {
                "kernel": kernel(own_key, layer.shape, jnp.float32),
                "bias": jnp.full(layer.fan_out, bias, jnp.float32),
            }
            for own_key, (layer, kernel, bias) in zip(keys, drawn, strict=True)
        }

    def apply(params: Params, inputs: Float[Array, " in"]) -> Float[Array, " out"]:
        outputs: Any = network.apply({"params": params}, inputs)
        return outputs

    return Mlp(init, apply, (*hidden, last))


def uniform(limit: float) -> Initializer:
    """Makes an initializer uniform on ± ``limit``."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: type) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw
