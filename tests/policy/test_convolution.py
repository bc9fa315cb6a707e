"""Convolutions by blocks, against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_helpers import lax_convolution

from nesht_jax.policy.convolution import (
    CONVOLUTIONS,
    Convolution,
    Filters,
    Residual,
    convolve,
    filter_shapes,
    smallest_edge,
)
from nesht_jax.types import LowRank

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "shape, size, stride",
    [((3, 84, 84), 8, 4), ((2, 21, 23), 4, 2), ((5, 9, 9), 3, 1), ((1, 10, 7), 6, 2)],
)
def test_a_convolution_is_that_of_lax(shape, size, stride):
    channels = shape[0]
    x, kernel = jax.random.normal(KEY, shape), jax.random.normal(KEY, (channels * size**2, 7))
    expected = jnp.moveaxis(lax_convolution(x, kernel, size, stride), 0, -1)
    jitted = jax.jit(convolve, static_argnames=("size", "stride"))
    made = jitted(jnp.moveaxis(x, 0, -1), kernel, size=size, stride=stride)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def test_filters_of_low_rank_are_their_product():
    x, kernel = jax.random.normal(KEY, (20, 20, 2)), jax.random.normal(KEY, (128, 8))
    a, b = jax.random.normal(KEY, (128, 2)), jax.random.normal(jax.random.key(1), (8, 2))
    filters = jax.jit(Filters(8, 8, 4, use_bias=False).apply)
    low_rank, full = (
        filters({"params": {"kernel": weights}}, x)
        for weights in (LowRank(kernel, a, b), kernel + a @ b.T)
    )
    np.testing.assert_allclose(low_rank, full, rtol=1e-3, atol=1e-3)


def test_a_bias_is_one_number_a_filter():
    filters, x = Filters(3, 4, 2), jnp.ones((8, 8, 2))
    params = filters.init(KEY, x)["params"]
    shifted = params | {"bias": jnp.array([1.0, 2.0, 3.0])}
    difference = filters.apply({"params": shifted}, x) - filters.apply({"params": params}, x)
    np.testing.assert_allclose(difference, np.broadcast_to([1, 2, 3], (3, 3, 3)), atol=1e-5)


@pytest.mark.parametrize(
    "name, edge", [("none", 1), ("dqn2013", 20), ("nature", 36), ("impala", 1)]
)
def test_the_smallest_edge_is_the_least_that_leaves_a_pixel(name, edge):
    assert smallest_edge(CONVOLUTIONS[name]) == edge
    assert filter_shapes(CONVOLUTIONS[name], (4, edge, edge))[1] > 0


def test_the_smallest_edge_before_a_residual_section_is_what_leaves_one_pixel_after_it():
    parts = (Residual(8), Convolution(4, 3, 1))
    edge = smallest_edge(parts)
    assert filter_shapes(parts, (1, edge, edge))[1] == 4
    assert filter_shapes(parts, (1, edge - 1, edge - 1))[1] == 0


def test_shapes_of_filters_follow_the_published_networks():
    shapes, inputs = filter_shapes(CONVOLUTIONS["dqn2013"], (4, 84, 84))
    assert (shapes, inputs) == ([(4, 8, 8, 16), (16, 4, 4, 32)], 9 * 9 * 32)
    shapes, inputs = filter_shapes(CONVOLUTIONS["impala"], (4, 84, 84))
    assert len(shapes) == 15 and shapes[5] == (16, 3, 3, 32) and inputs == 11 * 11 * 32
