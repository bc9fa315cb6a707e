"""Noise that is drawn on the host."""

import numpy as np
import pytest
from scipy import stats

from nesht_jax.envs.host import normals

SIZE = 400_000


@pytest.fixture(scope="module")
def drawn():
    return normals(np.random.SFC64(3), (SIZE // 4, 4))


def test_it_is_standard_normal(drawn):
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert drawn.dtype == np.float32
    assert 4.2 < drawn.max() < 4.4


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7])
def test_neighbours_that_share_a_word_are_independent(drawn, lag):
    noise = drawn.ravel().astype(np.float64)
    for power in (1, 2):  # a square would show what a product hides
        a = noise**power - np.mean(noise**power)
        correlation = np.mean(a[lag:] * a[:-lag]) / a.var()
        assert abs(correlation) < 5 / np.sqrt(SIZE)


def test_all_values_together_have_mean_0_and_variance_1():
    every = np.unique(normals(np.random.SFC64(1), (2**22,))).astype(np.float64)
    assert len(every) == 2**16
    np.testing.assert_allclose([every.mean(), every.var()], [0, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (5,), (2, 3)])
def test_any_shape(shape):
    assert normals(np.random.SFC64(1), shape).shape == shape


def test_a_seed_gives_the_same_again_and_goes_on():
    bits = np.random.SFC64(7), np.random.SFC64(7)
    first, again, later = (normals(b, (9,)) for b in (bits[0], bits[1], bits[0]))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == later)
