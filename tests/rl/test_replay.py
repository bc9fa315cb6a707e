"""The replay against a Python list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import KEY, choice_task, transitions
from scipy import stats

from nesht_jax.rl.replay import empty_experience, extend, make_replay, sample

TASK = choice_task()


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(capacity=st.integers(1, 9), envs=st.lists(st.integers(1, 9), max_size=6))
def test_it_holds_the_newest(capacity, envs):
    replay, newest = make_replay(empty_experience(TASK, capacity)), []
    for seed, number in enumerate(n for n in envs if n <= capacity):
        new = transitions(TASK, number, seed)
        replay = extend(replay, new)
        newest = [*newest, *zip(*jax.tree.map(np.asarray, new), strict=True)][-capacity:]
    assert int(replay.added) >= len(newest)
    held = {np.concatenate([np.ravel(x) for x in t]).tobytes() for t in newest}
    kept = zip(*jax.tree.map(np.asarray, replay.transitions), strict=True)
    rows = [np.concatenate([np.ravel(x) for x in t]).tobytes() for t in kept]
    stored = min(int(replay.added), capacity)
    assert set(rows[:stored]) == held and len(held) == stored


def numbered(number, start=0):
    """Transitions whose reward is their number."""
    experience = transitions(TASK, number)
    return experience._replace(reward=jnp.arange(start, start + number, dtype=jnp.float32))


@pytest.mark.parametrize(("capacity", "number"), [(20, 7), (7, 7), (7, 14)])
def test_it_samples_uniformly_from_what_is_stored(capacity, number):
    replay = make_replay(empty_experience(TASK, capacity))
    for start in range(0, number, 7):
        replay = extend(replay, numbered(7, start))
    drawn = np.asarray(sample(replay, KEY, 7_000).reward).astype(int)
    oldest = max(0, number - capacity)
    counts = np.bincount(drawn - oldest, minlength=7)
    assert len(counts) == 7 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("capacity", "number"), [(5, 2), (6, 3), (4, 4)])
def test_its_count_has_an_end_and_its_places_go_on(capacity, number):
    """A count of all that was ever added would overflow."""
    replay = make_replay(empty_experience(TASK, capacity))
    for start in range(0, 9 * number, number):
        replay = extend(replay, numbered(number, start))
        end = start + number
        assert int(replay.added) < 2 * capacity and int(replay.added) % capacity == end % capacity
        assert min(int(replay.added), capacity) == min(end, capacity)


def test_parts_of_a_transition_stay_together():
    replay = extend(make_replay(empty_experience(TASK, 8)), numbered(5))
    drawn = sample(replay, KEY, 40)
    for i, number in enumerate(np.asarray(drawn.reward).astype(int)):
        for part, whole in zip(drawn, numbered(5), strict=True):
            np.testing.assert_array_equal(part[i], whole[number])


def test_it_keeps_the_dtype_that_it_gets():
    experience = transitions(TASK, 3)
    seen = experience.observation.astype(jnp.uint8)
    replay = make_replay(jax.tree.map(jnp.zeros_like, experience._replace(observation=seen)))
    assert extend(replay, experience._replace(observation=seen)).transitions[0].dtype == jnp.uint8


def test_more_environments_than_places_are_refused():
    replay = make_replay(empty_experience(TASK, 3))
    with pytest.raises(ValueError, match="replay_size must be at least num_envs, 4, got 3"):
        extend(replay, transitions(TASK, 4))
