"""Flax networks of one observation."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from nesht_jax.contract import LowRank

REFERENCE = "reference"
"""Name of the axis of reference observations, over which virtual batch normalisation averages."""


class Convolution(NamedTuple):
    """A layer of square filters, without padding, and the activation after it.

    Attributes:
        features: how many filters.
        size: their edge in pixels, a multiple of the stride.
        stride: pixels from one to the next.
    """

    features: int
    size: int
    stride: int


class Residual(NamedTuple):
    """Filters 3×3, the maximum of 3×3 pixels at every second, and two residual blocks of two layers
    of filters 3×3 each, all padded. Espeholt et al. 2018 (arXiv 1802.01561), figure 3.

    Attributes:
        features: how many filters in each of the five layers.
    """

    features: int


CONVOLUTIONS: dict[str, tuple[Convolution | Residual, ...]] = {
    "none": (),
    "dqn2013": (Convolution(16, 8, 4), Convolution(32, 4, 2)),
    "nature": (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
    "impala": (Residual(16), Residual(32), Residual(32)),
}
"""By name: those of Mnih et al. 2013, which has 256 hidden units after them, OpenAI-ES too, and the
Atari code of 2023 none; of Mnih et al. 2015, which has 512; and of Espeholt et al. 2018, 256."""


class Network(nn.Module):
    """Convolutions, if any, then dense layers; kernels N(0, 2/(in + 1)), biases 0, as in the
    published MuJoCo code.

    Layers are numbered, convolutions first. The kernel of a convolution is a matrix [channels ·
    size², features], its rows sorted by channel first, and may be of low rank as any other.

    Attributes:
        sizes: of the dense layers; the last is the number of actions.
        activation: between layers.
        convolutions: before the dense layers, where there are frames.
        frames: channels, height and width of an observation that is an image.
        normalized: with virtual batch normalisation before every activation: scale and bias of a
            ``norm`` take the place of a layer's bias, and mean and variance are those of its
            outputs for the reference observations. Salimans et al. 2016 (arXiv 1606.03498), 3.4.
    """

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array] = jnp.tanh
    convolutions: tuple[Convolution | Residual, ...] = ()
    frames: tuple[int, int, int] | None = None
    normalized: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, " o"], *, collect: bool = False) -> Float[Array, " a"]:
        """``collect``: this is one of the reference observations, along the axis ``REFERENCE``."""
        numbers = itertools.count()

        def layer(x: Array, make: Callable[..., nn.Module]) -> Array:
            number = next(numbers)
            y = make(use_bias=not self.normalized, name=f"layer{number}")(x)
            if not self.normalized:
                return y
            norm = nn.BatchNorm(
                use_running_average=not collect,
                momentum=0,
                epsilon=1e-3,
                use_fast_variance=False,
                axis_name=REFERENCE,
                name=f"norm{number}",
            )
            return norm(y)

        def convolve(x: Array, features: int, size: int, stride: int) -> Array:
            return layer(x, lambda **rest: Filters(features, size, stride, **rest))

        def residual(x: Array, features: int) -> Array:
            def padded(x: Array) -> Array:
                return convolve(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), features, 3, 1)

            x = nn.max_pool(padded(x), (3, 3), strides=(2, 2), padding="SAME")
            for _ in range(2):
                x = x + padded(self.activation(padded(self.activation(x))))
            return x

        if self.frames and self.convolutions:
            x = jnp.moveaxis(x.reshape(self.frames), 0, -1)
            for part in self.convolutions:
                if isinstance(part, Residual):
                    x = residual(x, part.features)
                else:
                    x = self.activation(convolve(x, *part))
            x = x.ravel()
            if isinstance(self.convolutions[-1], Residual):
                x = self.activation(x)
        for size in self.sizes[:-1]:
            x = self.activation(layer(x, lambda size=size, **rest: Dense(size, **rest)))
        return Dense(self.sizes[-1], name=f"layer{next(numbers)}")(x)


class Dense(nn.Module):
    """x W + b, as flax has it, but W may also be a ``LowRank``."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*rest in"]) -> Float[Array, "*rest out"]:
        return _biased(self, x @ _kernel(self, x.shape[-1]))


class Filters(nn.Module):
    """A convolution without padding, [height, width, channels] -> [rows, columns, features]."""

    features: int
    size: int
    stride: int
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "rows columns features"]:
        kernel = _kernel(self, x.shape[-1] * self.size**2)
        return _biased(self, convolution(x, kernel, size=self.size, stride=self.stride))


def _kernel(layer: Dense | Filters, inputs: int) -> Any:
    stddev = float(np.sqrt(2 / (inputs + 1)))
    return layer.param("kernel", nn.initializers.normal(stddev), (inputs, layer.features))


def _biased(layer: Dense | Filters, y: Float[Array, "*rest out"]) -> Float[Array, "*rest out"]:
    if not layer.use_bias:
        return y
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return y + jnp.broadcast_to(bias, y.shape)


def convolution(
    x: Float[Array, "height width channels"],
    kernel: Float[Array, "inputs features"] | LowRank,
    *,
    size: int,
    stride: int,
) -> Float[Array, "rows columns features"]:
    """Every square of ``size`` pixels, ``stride`` apart, times the kernel.

    Cut into blocks of stride × stride pixels, which do not overlap, a filter is size/stride squared
    filters of one block. So all blocks go through one product of matrices, and what the squares are
    is a sum of shifted blocks of its result: no pixel is copied, where patches would hold each
    size²/stride² times.
    """
    if isinstance(kernel, LowRank):
        full = convolution(x, kernel.matrix, size=size, stride=stride)
        return full + convolution(x, kernel.a, size=size, stride=stride) @ kernel.b.T
    height, width, channels = x.shape
    rows, columns = ((edge - size) // stride + 1 for edge in (height, width))
    n = size // stride
    high, wide = rows + n - 1, columns + n - 1
    blocks = x[: high * stride, : wide * stride].reshape(high, stride, wide, stride, channels)
    blocks = blocks.transpose(0, 2, 1, 3, 4).reshape(high * wide, -1)
    parts = kernel.reshape(channels, n, stride, n, stride, -1)
    parts = parts.transpose(2, 4, 0, 1, 3, 5).reshape(blocks.shape[1], -1)
    product = (blocks @ parts).reshape(high, wide, n, n, -1)
    shifted = (product[i : i + rows, j : j + columns, i, j] for i in range(n) for j in range(n))
    return functools.reduce(jnp.add, shifted)


def smallest_edge(convolutions: tuple[Convolution | Residual, ...]) -> int:
    """Pixels that the convolutions need in height and width."""
    smallest = 1
    for part in reversed(convolutions):
        if isinstance(part, Convolution):
            smallest = (smallest - 1) * part.stride + part.size
        else:
            smallest = 2 * smallest - 1
    return smallest


def kernel_shapes(
    params: Any, convolutions: tuple[Convolution | Residual, ...]
) -> dict[str, tuple[int, ...]]:
    """Of every kernel by name: (in, out), or (channels, size, size, features) of filters."""

    def edges() -> Iterator[int]:
        for part in convolutions:
            yield from [3] * 5 if isinstance(part, Residual) else [part.size]
        yield from itertools.repeat(1)

    names = [f"layer{number}" for number in range(sum("kernel" in p for p in params.values()))]
    shapes = {}
    for name, size in zip(names, edges(), strict=False):
        inputs, features = params[name]["kernel"].shape
        shape = (inputs // size**2, size, size, features) if size > 1 else (inputs, features)
        shapes[f"{name}/kernel"] = shape
    return shapes
