"""First weights of sparse kernels: the scale of the outputs, and the published bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from nesht_jax.sparse.initialization import glorot_by_live_fans, scaled_to_live_fans


def drawn(key, inputs, outputs, live):
    """A kernel of which each output reads ``live`` inputs, and its mask."""
    weights, ranks = jax.random.split(key)
    order = jax.random.uniform(ranks, (inputs, outputs)).argsort(0)
    return jax.random.normal(weights, (inputs, outputs)) / np.sqrt(inputs), order < live


def test_outputs_vary_as_those_of_the_dense_network():
    """Three of 300 connections live: the variance of outputs is that of all 300, by chi-square."""
    kernel, mask = drawn(jax.random.key(0), 300, 400, 3)
    params = {"kernel": kernel, "bias": jnp.ones(400)}
    masks = {"kernel": mask, "bias": jnp.ones(400, bool)}
    scaled = scaled_to_live_fans(params, masks)
    inputs = jax.random.normal(jax.random.key(1), (500, 300))
    variances = [np.asarray(inputs @ kernel).var(0).mean(), 0.0]
    variances[1] = np.asarray(inputs @ scaled["kernel"]).var(0).mean()
    # the mean of 400 variances of 3 weights each: relative deviation of a sum of 1200 squares
    assert abs(variances[1] / variances[0] - 1) < 4 * np.sqrt(2 / 1200)
    np.testing.assert_array_equal(scaled["bias"], params["bias"])
    assert np.count_nonzero(scaled["kernel"]) == 1200


def test_published_bounds_by_connection():
    kernel, mask = drawn(jax.random.key(2), 30, 20, 4)
    params = {"kernel": kernel, "bias": jnp.zeros(20)}
    masks = {"kernel": mask, "bias": jnp.ones(20, bool)}
    made = [glorot_by_live_fans(jax.random.key(i), params, masks)["kernel"] for i in range(400)]
    alive, found = np.asarray(mask), np.abs(np.stack(made))
    for i, j in np.argwhere(alive)[::7]:
        fans = (alive[:, j].sum() + alive[i].sum()) / 2
        bound = np.sqrt(3 / max(1, fans))
        assert 0.97 * bound < found[:, i, j].max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(found[:, i, j].mean(), bound / 2, rtol=0.12)
    assert found[:, ~alive].max() == 0


def test_the_dtype_of_params_stays():
    params = {"kernel": jnp.ones((4, 3), jnp.bfloat16)}
    mask = {"kernel": jnp.ones((4, 3), bool)}
    drawn_anew = glorot_by_live_fans(jax.random.key(0), params, mask)
    for new in (scaled_to_live_fans(params, mask), drawn_anew):
        assert new["kernel"].dtype == jnp.bfloat16


def test_an_output_that_reads_nothing_stays_finite():
    params, mask = {"kernel": jnp.ones((4, 3))}, {"kernel": jnp.zeros((4, 3), bool)}
    for new in (
        scaled_to_live_fans(params, mask),
        glorot_by_live_fans(jax.random.key(0), params, mask),
    ):
        np.testing.assert_array_equal(new["kernel"], np.zeros((4, 3)))
