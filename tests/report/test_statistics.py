"""Statistics against the functions of SciPy and NumPy that are defined to be the same."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from nesht_jax.report.statistics import bootstrap_interval, iqm, score, segment_ratio

RETURNS = np.array([1.0, 4.0, -2.0, 9.0, 3.0])
STEPS = np.array([10, 20, 30, 40, 50])
UNDEFINED = (np.nan, np.nan, np.nan)


def test_a_score_is_the_mean_with_students_interval():
    told = score(RETURNS, STEPS)
    interval = stats.ttest_1samp(RETURNS, 0.0).confidence_interval(0.95)
    assert (told.mean, told.episodes, told.steps, told.failed) == (RETURNS.mean(), 5, 30, 0)
    np.testing.assert_allclose(told.standard_error, stats.sem(RETURNS))
    np.testing.assert_allclose([told.low, told.high], interval)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_failed_episodes_enter_nothing_but_the_counts(bad):
    returns, steps = np.append(RETURNS, [bad, bad]), np.append(STEPS, [10**6, 0])
    order = np.random.default_rng(0).permutation(7)
    told = score(returns[order].astype(np.float32), steps[order])
    clean = score(RETURNS, STEPS)
    np.testing.assert_allclose(told[:4], clean[:4])
    assert (told.episodes, told.steps, told.failed) == (7, clean.steps, 2)


@pytest.mark.parametrize("failed", [0, 3])
def test_one_episode_has_a_mean_and_no_interval(failed):
    told = score(np.array([7.0] + [np.nan] * failed), np.array([3] + [9] * failed))
    assert (told.mean, told.steps, told.episodes, told.failed) == (7, 3, 1 + failed, failed)
    np.testing.assert_array_equal(told[1:4], UNDEFINED)


@pytest.mark.parametrize("failed", [0, 1, 4])
def test_a_score_without_an_episode_that_counts_is_undefined(failed):
    told = score(np.full(failed, np.nan), np.ones(failed, int))
    np.testing.assert_array_equal([*told[:4], told.steps], [np.nan, *UNDEFINED, np.nan])
    assert (told.episodes, told.failed) == (failed, failed)


def test_equal_returns_have_an_interval_of_one_point():
    told = score(np.full(3, 2.5), np.ones(3, int))
    assert told[:4] == (2.5, 0, 2.5, 2.5)


def test_iqm_is_the_mean_of_the_middle_half_of_all_groups():
    groups = [np.array([8.0, 1.0, 100.0]), np.array([-50.0, 3.0, 2.0, 7.0, 6.0])]
    assert iqm(*groups) == np.sort(np.concatenate(groups))[2:-2].mean() == 4.5


def test_iqm_is_taken_along_the_axis():
    runs = np.random.default_rng(0).normal(size=(3, 8))
    np.testing.assert_allclose(iqm(runs[:, :4], runs[:, 4:]), [iqm(row) for row in runs])


def test_iqm_does_not_hide_a_score_that_is_not_known():
    assert np.isnan(iqm(np.array([1.0, np.nan, 2.0, 3.0])))


def test_the_interval_of_a_mean_is_that_of_its_normal_approximation():
    rng = np.random.default_rng(0)
    groups = [rng.normal(place, 1.0, 100).tolist() for place in (0.0, 50.0)]

    def mean(*groups, axis):
        return np.concatenate(groups, axis=axis).mean(axis)

    low, high = bootstrap_interval(groups, mean)
    # runs are drawn within a group: the 50 between the groups must not widen it
    error = np.sqrt(sum(np.var(group) for group in groups) / 100) / 2
    center = np.mean(groups)
    np.testing.assert_allclose([low, high], center + 1.96 * error * np.array([-1, 1]), atol=0.03)


def test_the_same_scores_give_the_same_interval():
    groups = [[0.1, 0.4, 0.2], [1.0, 3.0, 2.0]]
    low, high = bootstrap_interval(groups)
    assert (low, high) == bootstrap_interval(groups)
    assert low < iqm(*groups) < high


@pytest.mark.parametrize("groups", [[], [[1.0]], [[1.0, 2.0], [3.0]]])
def test_too_few_runs_have_no_interval(groups):
    assert np.isnan(bootstrap_interval(groups)).all()


@pytest.mark.parametrize(
    ("norms", "ratio"),
    [
        ([3.0, 1.0, 2.0], 2.0),
        ([1.0, 4.0], 0.25),
        ([0.0, 4.0], 0.0),
        ([3.0, 0.0, 0.0], np.inf),
        ([0.0, 0.0], np.nan),
        ([3.0], np.nan),
        ([], np.nan),
        (np.float32([3, 1.5]), 2.0),
    ],
)
def test_segment_ratio(norms, ratio):
    np.testing.assert_equal(segment_ratio(norms), ratio)


def test_statistics_do_not_load_scipy_before_they_need_it():
    code = "import sys, nesht_jax.report.statistics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {"scipy", "jax"} & set(loaded.decode().split())
