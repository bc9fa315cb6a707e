"""Computes what the returns of episodes and the scores of runs amount to.

SciPy is imported where it is used: it costs more than all else at the start of the command line.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

CONFIDENCE = 0.95
"""Coverage of every interval here."""

RESAMPLES = 10_000
"""Resamples of a bootstrap: enough for two digits of its interval."""


class Score(NamedTuple):
    """What some episodes of one policy brought; NaN where it is undefined.

    A failed episode, one whose return is not a finite number, enters nothing but the two counts.

    Attributes:
        mean: mean undiscounted return; NaN if all episodes failed.
        standard_error: standard error of the mean; NaN below two episodes that did not fail.
        low: lower end of the 95 % confidence interval of the mean (Student's t).
        high: upper end of the same interval.
        episodes: number of episodes played, failed ones included.
        steps: mean length of an episode, in environment steps.
        failed: number of failed episodes.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    episodes: int
    steps: float
    failed: int


def score(returns: Float[Any, " episodes"], steps: Int[Any, " episodes"]) -> Score:
    """Summarizes independent episodes of one policy.

    Args:
        returns: undiscounted return of each episode; not finite where it failed.
        steps: length of each episode, in environment steps.
    """
    returns, steps = np.asarray(returns, np.float64), np.asarray(steps, np.float64)
    counts = np.isfinite(returns)
    mean, error, reach = _mean(returns[counts])
    length, _, _ = _mean(steps[counts])
    failed = int((~counts).sum())
    return Score(mean, error, mean - reach, mean + reach, len(returns), length, failed)


def _mean(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean, its standard error, and the half-width of its interval."""
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return mean, math.nan, math.nan
    from scipy.special import stdtrit  # a fraction of the import of scipy.stats

    error = float(values.std(ddof=1) / math.sqrt(n))
    return mean, error, error * float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))


def iqm(*groups: Any, axis: int = -1) -> Any:
    """Interquartile mean: the mean of the middle half of the scores of all groups together.

    Agarwal et al. 2021 (arXiv 2108.13264). A score that is NaN makes it NaN.

    Args:
        groups: normalized scores of runs, an array for each task.
        axis: axis along which the runs of a task lie.

    Returns:
        A number; an array without the axis where the groups have further ones.
    """
    from scipy import stats

    return stats.trim_mean(np.concatenate(groups, axis=axis), 0.25, axis=axis)


def bootstrap_interval(
    groups: Sequence[Sequence[float]], statistic: Callable[..., Any] = iqm
) -> tuple[float, float]:
    """Gives the 95 % percentile interval of a statistic, runs drawn anew within each group.

    The draws are seeded: the same scores give the same interval.

    Args:
        groups: scores of runs, a sequence for each task.
        statistic: function of one array for each group and of ``axis``, as ``iqm``.

    Returns:
        Lower and upper end; NaN where a group has fewer than two runs.
    """
    if not groups or min(map(len, groups)) < 2:
        return math.nan, math.nan
    from scipy import stats

    found = stats.bootstrap(
        groups,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(found.low), float(found.high)


def segment_ratio(norms: Iterable[Any]) -> float:
    """Tells how much larger the weights on the true observation are than those on distractors.

    Args:
        norms: norm of the weights on each segment of the observation, the true one first; see
            ``policy.policy.segment_norms``.

    Returns:
        ‖W[0]‖ over the mean of ‖W[1]‖ … ‖W[N]‖; inf where all weights on distractors are zero;
        NaN without distractors, or where all weights are zero.
    """
    segments = [float(norm) for norm in norms]
    if len(segments) < 2:
        return math.nan
    true, distractors = segments[0], float(np.mean(segments[1:]))
    if distractors == 0:
        return math.inf if true else math.nan
    return true / distractors
