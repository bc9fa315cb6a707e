"""Convolutions of one image: the networks in use for Atari, and how a filter is computed."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nesht_jax.policy.weights import add_bias, make_kernel
from nesht_jax.types import LowRank


class Convolution(NamedTuple):
    """A layer of square filters, without padding, and the activation after it.

    Attributes:
        features: how many filters.
        size: edge of a filter in pixels, a multiple of the stride.
        stride: pixels from one place of a filter to the next.
    """

    features: int
    size: int
    stride: int


class Residual(NamedTuple):
    """A section of five padded layers: filters 3×3, the maximum of 3×3 pixels at every second, and
    two residual blocks of two layers of filters 3×3 each. Espeholt et al. 2018 (arXiv 1802.01561),
    figure 3.

    Attributes:
        features: how many filters in each of the five layers.
    """

    features: int


Convolutions = tuple[Convolution | Residual, ...]

CONVOLUTIONS: dict[str, Convolutions] = {
    "none": (),
    "dqn2013": (Convolution(16, 8, 4), Convolution(32, 4, 2)),
    "nature": (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
    "impala": (Residual(16), Residual(32), Residual(32)),
}
"""Convolutions by name.

``dqn2013``: Mnih et al. 2013; 256 hidden units follow, also in OpenAI-ES; none in the Atari code of
2023. ``nature``: Mnih et al. 2015; 512 hidden units follow. ``impala``: Espeholt et al. 2018; 256
hidden units follow.
"""


class Filters(nn.Module):
    """A convolution without padding, [height, width, channels] -> [rows, columns, features].

    The kernel is a matrix [channels · size², features], its rows sorted by channel first, then by
    row and column of the filter. It may be a ``LowRank``, as any other.

    Attributes:
        features: how many filters.
        size: edge of a filter in pixels, a multiple of the stride.
        stride: pixels from one place of a filter to the next.
        use_bias: whether each filter has a bias.
    """

    features: int
    size: int
    stride: int
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "rows columns features"]:
        matrix = make_kernel(self, (x.shape[-1] * self.size**2, self.features))
        y = convolve(x, matrix, size=self.size, stride=self.stride)
        return add_bias(self, y) if self.use_bias else y


def convolve(
    x: Float[Array, "height width channels"],
    kernel: Float[Array, "inputs features"] | LowRank,
    *,
    size: int,
    stride: int,
) -> Float[Array, "rows columns features"]:
    """Multiplies every square of ``size`` pixels, ``stride`` apart, by the kernel.

    Cut into blocks of stride × stride pixels, which do not overlap, a filter is (size/stride)²
    filters of one block each. All blocks go through one matrix product, and the result is a sum of
    shifted parts of it.
    """
    if isinstance(kernel, LowRank):
        full = convolve(x, kernel.matrix, size=size, stride=stride)
        return full + convolve(x, kernel.a, size=size, stride=stride) @ kernel.b.T
    height, width, channels = x.shape
    rows, columns = ((edge - size) // stride + 1 for edge in (height, width))
    n = size // stride
    high, wide = rows + n - 1, columns + n - 1
    # Blocks copy no pixel, where patches (im2col) would hold each of them n² times. And a matrix
    # product stays one under vmap, where XLA makes a grouped convolution, slow on a CPU.
    blocks = x[: high * stride, : wide * stride].reshape(high, stride, wide, stride, channels)
    blocks = blocks.transpose(0, 2, 1, 3, 4).reshape(high * wide, -1)
    parts = kernel.reshape(channels, n, stride, n, stride, -1)
    parts = parts.transpose(2, 4, 0, 1, 3, 5).reshape(blocks.shape[1], -1)
    product = (blocks @ parts).reshape(high, wide, n, n, -1)
    shifted = (product[i : i + rows, j : j + columns, i, j] for i in range(n) for j in range(n))
    return functools.reduce(jnp.add, shifted)


def convolved(
    x: Float[Array, "height width channels"],
    convolutions: Convolutions,
    *,
    filters: Callable[..., Array],
    activation: Callable[[Array], Array],
) -> Float[Array, " inputs"]:
    """Computes what the convolutions make of an image, for the dense layers after them.

    Args:
        x: image, channels last.
        convolutions: one or more, first to last.
        filters: (image, features, size, stride) -> outputs of the network's next layer of filters,
            before the activation.
        activation: function after each convolution, within each residual block and at the end.
    """
    for part in convolutions:
        if isinstance(part, Residual):
            x = _residual(x, part.features, filters=filters, activation=activation)
        else:
            x = activation(filters(x, *part))
    ends_in_a_sum = isinstance(convolutions[-1], Residual)
    return activation(x.ravel()) if ends_in_a_sum else x.ravel()


def _residual(
    x: Float[Array, "height width channels"],
    features: int,
    *,
    filters: Callable[..., Array],
    activation: Callable[[Array], Array],
) -> Float[Array, "rows columns features"]:
    def padded(x: Array) -> Array:
        return filters(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), features, 3, 1)

    x = nn.max_pool(padded(x), (3, 3), strides=(2, 2), padding="SAME")
    for _ in range(2):
        x = x + padded(activation(padded(activation(x))))
    return x


def filter_shapes(
    convolutions: Convolutions, image_shape: tuple[int, int, int]
) -> tuple[list[tuple[int, ...]], int]:
    """Shapes (channels, size, size, features) of all layers of filters, first to last, and how many
    numbers they leave of an image of this shape (channels, height, width)."""
    channels, height, width = image_shape
    shapes = []
    for part in convolutions:
        if isinstance(part, Residual):
            shapes += [(inputs, 3, 3, part.features) for inputs in (channels, *[part.features] * 4)]
            height, width = (-(-edge // 2) for edge in (height, width))
        else:
            shapes.append((channels, part.size, part.size, part.features))
            height, width = ((edge - part.size) // part.stride + 1 for edge in (height, width))
        channels = part.features
    return shapes, channels * height * width


def smallest_edge(convolutions: Convolutions) -> int:
    """Computes how many pixels the convolutions need in height and in width."""
    smallest = 1
    for part in reversed(convolutions):
        if isinstance(part, Convolution):
            smallest = (smallest - 1) * part.stride + part.size
        else:
            smallest = 2 * smallest - 1
    return smallest
