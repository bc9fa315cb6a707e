"""The normalizers against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.policy.normalize import by_observation, by_running_moments, unnormalized
from nesht_jax.types import Moments

ROWS = np.random.default_rng(0).normal([5.0, -300.0, 0.0], [1.0, 20.0, 0.0], (24, 3))
ROWS = ROWS.astype(np.float32)
MOMENTS = Moments(
    jnp.float32(24), jnp.asarray(ROWS.mean(0)), jnp.asarray(((ROWS - ROWS.mean(0)) ** 2).sum(0))
)


def test_running_moments_whiten():
    x = jnp.array([5.5, -290.0, 0.01])
    expected = (x - ROWS.mean(0)) / (ROWS.std(0) + 1e-2)
    np.testing.assert_allclose(by_running_moments().apply(MOMENTS, x), expected, rtol=1e-3)


@pytest.mark.parametrize("clip", [0.5, 5.0])
def test_running_moments_clip(clip):
    seen = by_running_moments(clip).apply(MOMENTS, jnp.array([1e6, -1e6, 0.0]))
    np.testing.assert_array_equal(seen, np.float32([clip, -clip, 0]))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_leaves_nothing_is_refused(clip):
    with pytest.raises(ValueError, match=f"clip must be above 0, got {clip}"):
        by_running_moments(clip)


def test_before_any_observation_running_moments_only_clip():
    seen = by_running_moments().apply(Moments.empty(3), jnp.array([2.0, -9.0, 0.0]))
    np.testing.assert_array_equal(seen, [2, -5, 0])


def test_running_moments_without_moments_are_refused():
    with pytest.raises(ValueError, match=r"Moments\.empty\(o\)"):
        by_running_moments().apply(None, jnp.ones(3))


def test_by_observation_standardizes_across_the_features():
    x = np.float32([1.0, 4.0, -2.0, 0.5])
    seen = by_observation().apply(None, jnp.asarray(x))
    np.testing.assert_allclose(seen, (x - x.mean()) / (x.std() + 1e-5), rtol=1e-5)


def test_by_observation_of_a_constant_is_finite():
    np.testing.assert_array_equal(by_observation().apply(None, jnp.full(4, 3.0)), np.zeros(4))


def test_by_observation_tells_that_it_leaves_nothing_of_two_features():
    seen = by_observation().apply(None, jnp.array([7.0, 2.0]))
    np.testing.assert_allclose(seen, [1, -1], rtol=1e-4)
    assert by_observation().min_features == 3
    assert by_running_moments().min_features == unnormalized().min_features == 1


def test_unnormalized_is_the_observation():
    np.testing.assert_array_equal(unnormalized().apply(None, jnp.array([1.0, -7.0])), [1, -7])


@pytest.mark.parametrize(
    "normalizer, uses",
    [(by_running_moments(), True), (by_observation(), False), (unnormalized(), False)],
)
def test_only_running_moments_need_moments_gathered(normalizer, uses):
    assert normalizer.uses_moments is uses


@pytest.mark.parametrize("normalizer", [by_running_moments(), by_observation(), unnormalized()])
def test_no_normalizer_hides_that_a_number_is_missing(normalizer):
    assert np.isnan(normalizer.apply(MOMENTS, jnp.array([1.0, jnp.nan, 2.0]))[1])
