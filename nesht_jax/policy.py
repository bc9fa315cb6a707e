"""Flax networks as (init, apply) of one observation."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from nesht_jax.contract import Params

Output = Literal["tanh", "clip", "scale"]


class Policy(NamedTuple):
    """A deterministic policy.

    Attributes:
        init: key -> params.
        apply: (params, moments, observation [o]) -> action [a], within the action bounds.
        observes: whether ``apply`` reads the running observation moments.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Any, Float[Array, " o"]], Float[Array, " a"]]
    observes: bool


class Dense(nn.Module):
    """x W + b, as flax has it, but W may also be a ``LowRank``."""

    features: int
    stddev: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rest in"]) -> Float[Array, "*rest out"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        product = x @ kernel
        return product + jnp.broadcast_to(bias, product.shape)


class Convolution(NamedTuple):
    """A layer of square filters, without padding.

    Attributes:
        features: how many filters.
        size: their edge in pixels, a multiple of the stride.
        stride: pixels from one to the next.
    """

    features: int
    size: int
    stride: int


CONVOLUTIONS: dict[str, tuple[Convolution, ...]] = {
    "none": (),
    "dqn2013": (Convolution(16, 8, 4), Convolution(32, 4, 2)),
    "nature": (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
}
"""By name: those of Mnih et al. 2013, which the Atari code of 2023 has too, without its hidden
layer; and of Mnih et al. 2015, which has 512 hidden units after them."""


class Network(nn.Module):
    """Convolutions, if any, then dense layers; kernels N(0, 2/(in + 1)), biases 0, as in the
    published MuJoCo code.

    A convolution is a dense layer on patches: its kernel [channels · size², features] may be of low
    rank as any other, and its rows are sorted by channel first.
    """

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array] = jnp.tanh
    convolutions: tuple[Convolution, ...] = ()
    frames: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, " o"]) -> Float[Array, " a"]:
        layers = 0

        def dense(x: Array, features: int) -> Array:
            nonlocal layers
            stddev = float(np.sqrt(2 / (x.shape[-1] + 1)))
            layers += 1
            return Dense(features, stddev, name=f"layer{layers - 1}")(x)

        if self.frames and self.convolutions:
            x = x.reshape(self.frames)
            for features, size, stride in self.convolutions:
                x = self.activation(dense(patches(x, size, stride), features))
                x = jnp.moveaxis(x, -1, 0)
            x = x.ravel()
        for size in self.sizes[:-1]:
            x = self.activation(dense(x, size))
        return dense(x, self.sizes[-1])


def patches(
    x: Float[Array, "channels height width"], size: int, stride: int
) -> Float[Array, "rows columns patch"]:
    """Every square of ``size`` pixels, flattened as [channels, size, size]; ``size`` is a multiple
    of ``stride``."""
    channels, height, width = x.shape
    rows, columns = ((edge - size) // stride + 1 for edge in (height, width))
    blocks = size // stride
    x = x[:, : (rows + blocks - 1) * stride, : (columns + blocks - 1) * stride]
    x = x.reshape(channels, rows + blocks - 1, stride, columns + blocks - 1, stride)
    shifted = [
        [x[:, i : i + rows, :, j : j + columns] for j in range(blocks)] for i in range(blocks)
    ]
    stacked = jnp.array(shifted)  # [block, block, channels, rows, stride, columns, stride]
    return stacked.transpose(3, 5, 2, 0, 4, 1, 6).reshape(rows, columns, channels * size * size)


def make_policy(
    num_features: int,
    action_low: Float[np.ndarray, " a"],
    action_high: Float[np.ndarray, " a"],
    *,
    hidden: tuple[int, ...] = (),
    activation: Callable[[Array], Array] = jnp.tanh,
    output: Output = "tanh",
    convolutions: tuple[Convolution, ...] = (),
    frames: tuple[int, int, int] | None = None,
    normalizer: Any,
) -> Policy:
    """A linear policy, or an MLP if ``hidden`` names layers, after convolutions if there are any.

    Args:
        num_features: o, the length of an observation with its noise features.
        action_low: lower action bounds.
        action_high: upper action bounds.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: between layers.
        output: ``"tanh"`` as it is, in [-1, 1]; ``"clip"`` to the bounds; ``"scale"`` maps tanh
            onto the bounds, which must be finite. Where an action is chosen by the highest score,
            the bounds are infinite: ``"clip"`` leaves scores as they are, ``"tanh"`` keeps their
            order until they saturate.
        convolutions: before the dense layers, each with the activation after it.
        frames: channels, height and width of the observation, with noise channels, for them.
        normalizer: a ``normalize.Normalizer``.

    Raises:
        ValueError: if ``"scale"`` is asked for with infinite bounds; if there are convolutions but
            no frames, or frames too small for them.
    """
    low, high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
    if output == "scale" and not np.isfinite([low, high]).all():
        raise ValueError("output 'scale' needs finite action bounds; use 'tanh' or 'clip'")
    if convolutions:
        _check_frames(convolutions, frames)
    network = Network((*hidden, len(low)), activation, convolutions, frames)
    bound = {
        "tanh": jnp.tanh,
        "clip": lambda x: jnp.clip(x, low, high),
        "scale": lambda x: low + (jnp.tanh(x) + 1) / 2 * (high - low),
    }[output]

    def init(key: Key[Array, ""]) -> Params:
        return network.init(key, jnp.zeros(num_features))["params"]

    def apply(params: Params, moments: Any, observation: Float[Array, " o"]) -> Float[Array, " a"]:
        return bound(network.apply({"params": params}, normalizer.apply(moments, observation)))

    return Policy(init, apply, normalizer.running)


def _check_frames(
    convolutions: tuple[Convolution, ...], frames: tuple[int, int, int] | None
) -> None:
    if frames is None:
        raise ValueError("convolutions need a task that shows frames; this one shows a vector")
    smallest = 1
    for _, size, stride in reversed(convolutions):
        smallest = (smallest - 1) * stride + size
    if min(frames[1:]) < smallest:
        raise ValueError(
            f"frames of {frames[1]} x {frames[2]} pixels are too small for the convolutions, which "
            f"need {smallest} x {smallest}"
        )


def segment_norms(params: Params, noise: int) -> Float[Array, " segments"]:
    """‖W[s]‖₂ of the first layer's rows for segment s = 0 … N of the observation.

    Segment 0 is the true observation, the others are task-irrelevant noise.
    """
    kernel = params["layer0"]["kernel"]
    return jnp.linalg.norm(kernel.reshape(1 + noise, -1), axis=1)
