"""Flax networks of one observation, and the layers they tell of."""

import functools
import itertools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nesht_jax.policy.activation import Chosen
from nesht_jax.policy.convolution import Convolutions, Filters, convolved, filter_shapes
from nesht_jax.policy.virtual_batch import reference_norm
from nesht_jax.policy.weights import add_bias, make_kernel
from nesht_jax.types import Layer


class Network(nn.Module):
    """Convolutions, if any, then dense layers; kernels N(0, 2/(in + 1)), biases 0, as in the
    published MuJoCo code.

    Layers are numbered, convolutions first: ``layer0``, ``layer1``, ...

    Attributes:
        sizes: widths of the dense layers; the last is the number of actions.
        activation: function between layers; None: each hidden unit has its own, by
            number; not with convolutions.
        convolutions: layers before the dense ones.
        image_shape: channels, height and width of an observation that is an image; convolutions
            need it.
        normalized: whether virtual batch normalization stands before every activation. Scale and
            bias of ``norm0``, ``norm1``, ... then take the place of a layer's bias.
    """

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array] | None = jnp.tanh
    convolutions: Convolutions = ()
    image_shape: tuple[int, int, int] | None = None
    normalized: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, " o"], *, collect: bool = False) -> Float[Array, " a"]:
        """Computes the outputs of the last layer.

        Args:
            x: observation, normalized as the policy does.
            collect: whether x is one of the reference observations, batched along the axis
                ``REFERENCE``, whose statistics are to be collected.
        """
        numbers = itertools.count()

        def layer(kind: Callable[..., nn.Module], x: Array, *shape: int) -> Array:
            number = next(numbers)
            y = kind(*shape, use_bias=not self.normalized, name=f"layer{number}")(x)
            if not self.normalized:
                return y
            return reference_norm(collect=collect, name=f"norm{number}")(y)

        if self.image_shape and self.convolutions:
            assert self.activation is not None
            image = jnp.moveaxis(x.reshape(self.image_shape), 0, -1)
            filters = functools.partial(layer, Filters)
            x = convolved(image, self.convolutions, filters=filters, activation=self.activation)
        for hidden, size in enumerate(self.sizes[:-1]):
            activation = self.activation or Chosen(name=f"activation{hidden}")
            x = activation(layer(Dense, x, size))
        return Dense(self.sizes[-1], name=f"layer{next(numbers)}")(x)


class Dense(nn.Module):
    """x W + b, as flax has it, but W may also be a ``LowRank``.

    Attributes:
        features: how many outputs.
        use_bias: whether b is added.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*rest in"]) -> Float[Array, "*rest out"]:
        y = x @ make_kernel(self, (x.shape[-1], self.features))
        return add_bias(self, y) if self.use_bias else y


def layers_of(network: Network, num_features: int) -> tuple[Layer, ...]:
    """The layers of a network for observations of so many features, first to last.

    The norms of virtual batch normalization are none: they have no kernel.
    """
    shapes, inputs = [], num_features
    if network.image_shape and network.convolutions:
        shapes, inputs = filter_shapes(network.convolutions, network.image_shape)
    shapes = [*shapes, *itertools.pairwise((inputs, *network.sizes))]
    names = [f"layer{number}" for number in range(len(shapes))]
    return tuple(
        Layer(
            name=name,
            kind="dense" if len(shape) == 2 else "convolution",
            kernel=f"{name}/kernel",
            shape=shape,
            inputs=before,
        )
        for name, shape, before in zip(names, shapes, ["observation", *names[:-1]], strict=True)
    )
