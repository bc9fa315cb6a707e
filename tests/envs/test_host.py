"""Noise that is drawn on the host, and what its suites share."""

import os

import numpy as np
import pytest
from scipy import stats

from nesht_jax.envs.host import cores, mean_returns, normals, reset_streams

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


def test_cores_are_counted_on_every_platform(monkeypatch):
    """macOS and Windows cannot tell which cores a process may use."""
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_a_mean_that_float32_cannot_hold_is_a_failure():
    returns = np.array([[1.0, 2.0], [np.nan, 1.0], [1e38, 1e39], [1e308, 1e308], [-np.inf, np.inf]])
    fitness = np.asarray(mean_returns(returns))
    assert fitness[0] == 1.5 and np.isnan(fitness[1:]).all()


def test_a_mirrored_pair_shares_its_streams_only_if_asked():
    assert reset_streams(4, 2, common_random_numbers=False).tolist() == list(range(8))
    assert reset_streams(4, 2, common_random_numbers=True).tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
