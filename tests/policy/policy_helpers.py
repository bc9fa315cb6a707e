"""Tasks made by hand, and convolutions of JAX to compare with."""

import jax
import numpy as np

from nesht_jax.types import Task


def vector_task(features=4, low=(-1.0,) * 3, high=(1.0,) * 3, **fields):
    """A task of plain features and bounded actions."""
    fields = {"name": "test/vector", "options": {}, "horizon": None, "discrete": False} | fields
    bounds = {"action_low": np.float32(low), "action_high": np.float32(high)}
    return Task(observation_size=features, **bounds, **fields)


def choice_task(features=4, choices=4, **fields):
    """A task of plain features and a choice of actions."""
    scores = np.full(choices, np.inf)
    return vector_task(
        features, -scores, scores, **{"name": "test/choice", "discrete": True} | fields
    )


def image_task(shape=(4, 84, 84), choices=6, **fields):
    """A task of images and a choice of actions."""
    fields = {"name": "test/image", "image_shape": shape} | fields
    return choice_task(int(np.prod(shape)), choices, **fields)


def lax_convolution(x, kernel, size, stride, padding="VALID"):
    """Of x [channels, height, width], by a kernel whose rows are sorted by channel first."""
    kernel = kernel.reshape(-1, size, size, kernel.shape[-1])
    numbers = ("NCHW", "IHWO", "NCHW")
    x = jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), padding, dimension_numbers=numbers
    )
    return x[0]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))
