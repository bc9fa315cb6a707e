"""Shaping against independent oracles, and the promise that equal fitness moves nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from nesht_jax.es.shaping import (
    best_directions,
    centered_rank,
    centered_rank_by_order,
    failed,
    identity,
    standardize,
    wierstra,
)

INVARIANT = [centered_rank, centered_rank_by_order, standardize, wierstra]
ZERO_WHEN_FLAT = [centered_rank, standardize, wierstra]
ALL = [*INVARIANT, identity]

# whole numbers, so that a·F + b is exact in float32 and ties stay ties
# and few lengths, so that little is compiled
whole_fitness = st.sampled_from([2, 7]).flatmap(
    lambda m: st.lists(st.integers(-20, 20), min_size=m, max_size=m)
)
compiled = functools.cache(jax.jit)


def shaped(shaping, fitness):
    return np.asarray(compiled(shaping)(jnp.array(fitness, jnp.float32)))


@settings(deadline=None, max_examples=50)
@given(whole_fitness)
def test_centered_rank_is_the_mean_rank_scaled_to_half(fitness):
    expected = (rankdata(fitness, method="average") - 1) / (len(fitness) - 1) - 0.5
    np.testing.assert_allclose(shaped(centered_rank, fitness), expected, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(fitness=whole_fitness, a=st.sampled_from([0.25, 1.0, 3.0, 1000.0]), b=st.integers(-50, 50))
@pytest.mark.parametrize("shaping", INVARIANT)
def test_a_positive_affine_map_of_fitness_changes_nothing(shaping, fitness, a, b):
    mapped = a * np.array(fitness, np.float32) + b
    np.testing.assert_allclose(shaped(shaping, mapped), shaped(shaping, fitness), atol=1e-5)


@pytest.mark.parametrize("shaping", ALL)
def test_more_fitness_is_more_utility(shaping):
    utility = shaped(shaping, [3.0, -1.0, 10.0, 0.5])
    assert utility[2] > utility[0] > utility[3] >= utility[1]


@pytest.mark.parametrize("shaping", [*ZERO_WHEN_FLAT, identity])
def test_tied_members_have_one_utility(shaping):
    utility = shaped(shaping, [1.0, 2.0, -0.0, 2.0, 0.0, 7.0])
    assert utility[1] == utility[3] and utility[2] == utility[4]


@pytest.mark.parametrize("shaping", [centered_rank, centered_rank_by_order, wierstra, standardize])
def test_utilities_sum_to_zero(shaping):
    assert abs(shaped(shaping, [1.0, 2.0, 2.0, -3.0, 0.3, 9.0, 2.0]).sum()) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shaping", ALL)
def test_a_failed_member_is_worst(shaping, bad):
    utility = shaped(shaping, [2.0, bad, -5.0, 1.0])
    assert np.isfinite(utility).all() and utility[1] == utility.min()


@pytest.mark.parametrize("shaping", [centered_rank, wierstra, standardize])
def test_all_failures_tie(shaping):
    utility = shaped(shaping, [np.inf, 3.0, np.nan, 4.0, -np.inf])
    assert utility[0] == utility[2] == utility[4]


@pytest.mark.parametrize("shaping", [*ZERO_WHEN_FLAT, identity])
def test_all_failed_moves_nothing(shaping):
    assert (shaped(shaping, [np.nan, np.inf, -np.inf, np.nan]) == 0).all()


def test_failed_names_the_failures():
    fitness = jnp.array([np.nan, 1.0, np.inf, -np.inf, 3e38])
    assert failed(fitness).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("shaping", [*ZERO_WHEN_FLAT, *map(compiled, ZERO_WHEN_FLAT)])
@pytest.mark.parametrize("m", [1, 7])
def test_equal_fitness_gives_exact_zeros(shaping, m):
    for value in [0.0, 0.1, -1234.567, 1e-30, 3e38]:
        assert (np.asarray(shaping(jnp.full(m, value))) == 0).all(), value


@pytest.mark.parametrize("shaping", ALL)
def test_one_member_is_no_division_by_zero(shaping):
    assert np.isfinite(shaped(shaping, [3.0])).all()


@pytest.mark.parametrize("m", [2, 3, 7, 50])
def test_wierstra_is_the_published_formula(m):
    order = np.random.default_rng(m).permutation(m)
    place = m - order  # 1 is the best
    raw = np.maximum(0, np.log(m / 2 + 1) - np.log(np.arange(1, m + 1)))
    expected = (raw / raw.sum() - 1 / m)[place - 1]
    np.testing.assert_allclose(shaped(wierstra, order), expected, atol=1e-6)


def test_wierstra_ties_share_the_mean_of_their_places():
    apart, tied = shaped(wierstra, [0, 1, 2, 3, 4, 5]), shaped(wierstra, [0, 1, 2, 4, 4, 5])
    np.testing.assert_allclose(tied[3:5], apart[3:5].mean(), rtol=1e-6)


def test_standardize_is_the_z_score():
    fitness = np.array([1.0, 2.0, 4.0, -3.0])
    expected = (fitness - fitness.mean()) / fitness.std()
    np.testing.assert_allclose(shaped(standardize, fitness), expected, rtol=1e-6)


def test_identity_is_the_raw_return_and_fills_failures_with_the_worst():
    assert shaped(identity, [1.5, np.nan, -4.0, np.inf]).tolist() == [1.5, -4.0, -4.0, -4.0]


def test_by_order_gives_tied_members_different_utilities():
    np.testing.assert_allclose(shaped(centered_rank_by_order, [0.1] * 5), np.arange(5) / 4 - 0.5)


def test_by_order_is_the_mean_rank_without_ties():
    fitness = [3.0, -1.0, 10.0, 0.5]
    np.testing.assert_allclose(
        shaped(centered_rank_by_order, fitness), shaped(centered_rank, fitness)
    )


@pytest.mark.parametrize("shaping", ZERO_WHEN_FLAT)
def test_one_failure_among_equals_moves_only_by_the_failure(shaping):
    """No residue of a mean may pass for a difference: centred, and one utility for the equals."""
    utility = shaped(shaping, [0.1] * 6 + [np.nan])
    assert len(set(utility[:6])) == 1 and abs(utility.sum()) < 1e-6


# -------------------------------------------------------------------------------- best directions

PAIRS = 4
BEST = {b: best_directions(standardize, b) for b in (1, 3)}
BEST_RAW = {b: best_directions(identity, b) for b in (1, 2, 3, PAIRS)}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-5, 5), min_size=2 * PAIRS, max_size=2 * PAIRS), st.sampled_from([1, 3])
)
def test_the_best_directions_alone_are_shaped_and_weigh_as_all(fitness, number):
    pairs = np.array(fitness, float).reshape(-1, 2)
    best = sorted(range(PAIRS), key=lambda j: (-max(pairs[j]), j))[:number]
    deviation = pairs[best] - pairs[best].mean()
    expected = np.zeros_like(pairs)
    if deviation.any():
        expected[best] = PAIRS / number * deviation / deviation.std()
    np.testing.assert_allclose(shaped(BEST[number], fitness), expected.ravel(), atol=1e-5)


def test_a_direction_is_as_good_as_its_better_member():
    fitness = [5.0, -9.0, 4.0, 4.0, 3.0, 3.5, -8.0, 6.0]
    assert shaped(BEST_RAW[2], fitness).tolist() == [10.0, -18.0, 0, 0, 0, 0, -16.0, 12.0]


def test_of_equal_directions_the_first_count():
    fitness = [1.0, 7.0, 7.0, 0.0, 2.0, 2.0, 7.0, 7.0]
    assert np.flatnonzero(shaped(BEST_RAW[2], fitness)).tolist() == [0, 1, 2]
    assert np.flatnonzero(shaped(BEST_RAW[1], fitness)).tolist() == [0, 1]


def test_all_directions_are_the_shaping_itself():
    fitness = [3.0, -1.0, 10.0, 0.5, 2.0, 2.0, 7.0, 9.0]
    for shaping in (centered_rank, wierstra, standardize, identity):
        every = shaped(best_directions(shaping, PAIRS), fitness)
        np.testing.assert_allclose(every, shaped(shaping, fitness), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_member_is_never_the_better_one(bad):
    fitness = [bad, bad, 1.0, bad, -2.0, -3.0, bad, -1.0]
    assert shaped(BEST_RAW[1], fitness).tolist() == [0, 0, 4.0, 4.0, 0, 0, 0, 0]
    assert np.flatnonzero(shaped(BEST_RAW[3], fitness)).tolist() == [2, 3, 4, 5, 6, 7]
    utility = shaped(BEST[3], fitness)
    assert utility[3] == utility[5] == utility[6] == utility.min() < 0 < utility[2]


def test_a_direction_that_failed_counts_where_no_other_is_left():
    fitness = [np.nan, np.nan, 3.0, 1.0, np.nan, np.nan, np.nan, np.nan]
    utility = shaped(BEST[3], fitness)
    assert np.flatnonzero(utility).tolist() == [0, 1, 2, 3, 4, 5]
    assert utility[0] == utility[1] == utility[3] == utility[4] == utility[5] < utility[2]
    assert (shaped(BEST[3], [np.nan] * 8) == 0).all()


def test_best_directions_of_equal_fitness_move_nothing():
    assert (shaped(BEST[3], [0.1] * 8) == 0).all()


def test_impossible_numbers_of_best_directions_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        best_directions(identity, 0)
    for members in (7, 4):
        with pytest.raises(ValueError, match=f"{members} members do not have 3 mirrored pairs"):
            BEST_RAW[3](jnp.zeros(members))


def test_best_directions_are_found_in_wide_numbers():
    fitness = jnp.array([2048, 2049, 2050, 2051], jnp.bfloat16)
    assert BEST_RAW[1](fitness).dtype == jnp.float32
