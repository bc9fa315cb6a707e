"""Observation moments against numpy on any split, and the normalisers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nesht_jax.normalize import (
    Moments,
    add,
    empty,
    merge,
    merge_all,
    none,
    of_batch,
    per_observation,
    running,
)

ROWS = np.random.default_rng(0).normal([5.0, -300.0, 0.0], [1.0, 20.0, 0.0], (24, 3))
ROWS = ROWS.astype(np.float32)

batch_moments = jax.jit(of_batch)
jitted_merge = jax.jit(merge)


def is_numpy(moments, rows):
    """Number, mean and deviation of the rows, in float64."""
    rows = np.float64(rows)
    mean = rows.mean(0) if len(rows) else np.zeros(3)
    assert moments.number == len(rows)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.deviation, ((rows - mean) ** 2).sum(0), rtol=1e-4, atol=1e-3)


def part(owner, owners):
    return batch_moments(ROWS, np.array(owners) == owner)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=len(ROWS), max_size=len(ROWS)))
def test_merging_any_split_is_numpy_on_the_whole(owners):
    is_numpy(jitted_merge(jitted_merge(part(0, owners), part(1, owners)), part(2, owners)), ROWS)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=len(ROWS), max_size=len(ROWS)))
def test_merging_all_parts_at_once_is_numpy_on_the_whole(owners):
    parts = jax.tree.map(lambda *x: jnp.stack(x), *(part(i, owners) for i in range(3)))
    is_numpy(jax.jit(merge_all)(parts), ROWS)


def test_merging_is_symmetric():
    a, b = batch_moments(ROWS, np.arange(24) < 7), batch_moments(ROWS, np.arange(24) >= 7)
    for one, other in zip(merge(a, b), merge(b, a), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_empty_is_neutral():
    a = batch_moments(ROWS, np.ones(24, bool))
    for merged in (merge(a, empty(3)), merge(empty(3), a)):
        jax.tree.map(np.testing.assert_array_equal, merged, a)


def test_merging_nothing_with_nothing_is_nothing():
    jax.tree.map(np.testing.assert_array_equal, merge(empty(3), empty(3)), empty(3))
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), empty(3))
    jax.tree.map(np.testing.assert_array_equal, merge_all(stacked), empty(3))


def test_adding_one_by_one_is_numpy():
    moments, _ = jax.lax.scan(lambda m, row: (add(m, row), None), empty(3), ROWS)
    is_numpy(moments, ROWS)


def test_the_first_observation_is_the_mean_exactly():
    first = add(empty(3), jnp.asarray(ROWS[0]))
    np.testing.assert_array_equal(first.mean, ROWS[0])
    np.testing.assert_array_equal(first.deviation, np.zeros(3))


@pytest.mark.parametrize(
    "counted", [np.arange(24) % 3 == 0, np.arange(24) == 5, np.zeros(24, bool)]
)
def test_only_counted_rows_count(counted):
    is_numpy(batch_moments(ROWS, counted), ROWS[counted])


def test_many_observations_of_a_constant_have_no_deviation():
    moments = Moments(jnp.float32(1e7), jnp.array([0.1]), jnp.zeros(1))
    assert float(add(moments, jnp.array([0.1])).deviation[0]) == 0


def test_running_whitens_by_the_moments_seen():
    moments, x = batch_moments(ROWS, np.ones(24, bool)), jnp.array([5.5, -290.0, 0.01])
    expected = (x - ROWS.mean(0)) / (ROWS.std(0) + 1e-2)
    np.testing.assert_allclose(running().apply(moments, x), expected, rtol=1e-3)


@pytest.mark.parametrize("clip", [0.5, 5.0])
def test_running_clips(clip):
    moments = batch_moments(ROWS, np.ones(24, bool))
    seen = running(clip).apply(moments, jnp.array([1e6, -1e6, 0.0]))
    np.testing.assert_array_equal(seen, np.float32([clip, -clip, 0]))


def test_before_any_observation_running_only_clips():
    seen = running().apply(empty(3), jnp.array([2.0, -9.0, 0.0]))
    np.testing.assert_array_equal(seen, [2, -5, 0])


def test_running_without_moments_is_refused():
    with pytest.raises(ValueError, match="empty"):
        running().apply(None, jnp.ones(3))


def test_per_observation_standardises_across_the_features():
    x = np.float32([1.0, 4.0, -2.0, 0.5])
    seen = per_observation().apply(None, jnp.asarray(x))
    np.testing.assert_allclose(seen, (x - x.mean()) / (x.std() + 1e-5), rtol=1e-5)


def test_per_observation_of_a_constant_is_finite():
    np.testing.assert_array_equal(per_observation().apply(None, jnp.full(4, 3.0)), np.zeros(4))


def test_none_is_the_observation():
    np.testing.assert_array_equal(none().apply(None, jnp.array([1.0, -7.0])), [1, -7])


@pytest.mark.parametrize(
    "normalizer, reads", [(running(), True), (per_observation(), False), (none(), False)]
)
def test_only_running_needs_moments_gathered(normalizer, reads):
    assert normalizer.running is reads
