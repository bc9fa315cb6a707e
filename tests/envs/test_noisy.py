"""Noise on actions, against what its distribution must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax import make_evaluate, make_policy, task_spec
from nesht_jax.contract import alike
from nesht_jax.envs.noisy import act, jitters
from nesht_jax.envs.task import TaskSpec
from nesht_jax.normalize import none

KEY = jax.random.key(0)
CHOICE = TaskSpec(2, np.full(3, -np.inf, np.float32), np.full(3, np.inf, np.float32), 10)
BODY = TaskSpec(2, np.float32([-1, -0.2]), np.float32([1, 0.3]), 10)


def test_draws_an_action_from_the_softmax_of_the_scores():
    scores, n = jnp.array([1.0, -0.5, 2.0]), 40_000
    jitter = jax.random.normal(KEY, (n, 3))
    said = jnp.broadcast_to(scores, (n, 3))
    done = act(said, jitter, CHOICE, action_noise=0.0, samples=True).argmax(1)
    weights = np.exp(np.asarray(scores, np.float64))
    expected = n * weights / weights.sum()
    assert stats.chisquare(np.bincount(done, minlength=3), expected).pvalue > 1e-3


@pytest.mark.parametrize("extreme", [-5.4, 5.4])
def test_gumbel_noise_is_finite_at_the_ends_of_the_normals(extreme):
    made = act(jnp.zeros(3), jnp.full(3, extreme), CHOICE, action_noise=0.0, samples=True)
    expected = stats.gumbel_r.ppf(stats.norm.cdf(extreme))
    if extreme > 0:
        expected = -np.log(-stats.norm.logcdf(extreme))
    np.testing.assert_allclose(made, np.full(3, expected), rtol=1e-4)


def test_noise_on_an_action_keeps_its_bounds():
    jitter = jnp.array([[0.5, 9.0], [-9.0, -1.0]])
    made = act(jnp.zeros((2, 2)), jitter, BODY, action_noise=0.2, samples=False)
    np.testing.assert_allclose(made, [[0.1, 0.3], [-1, -0.2]], atol=1e-6)
    alone = act(jnp.zeros(2), jitter[0], BODY, action_noise=0.2, samples=False)
    np.testing.assert_array_equal(alone, made[0])


def test_without_noise_an_action_is_what_it_is():
    assert jitters(BODY, action_noise=0.0, samples=False) == 0
    said = jnp.array([3.0, -3.0])
    assert act(said, jnp.zeros(0), BODY, action_noise=0.0, samples=False) is said


@pytest.mark.parametrize("task", ["gymnasium/CartPole-v1", "gymnax/CartPole-v1"])
def test_rooms_draw_actions_from_scores(task):
    """Scores that say nothing: a coin, whose games last as those of a coin do, 22 steps."""
    spec, episodes = task_spec(task), 64
    bounds = spec.action_low, spec.action_high
    policy = make_policy(spec.observation_size, *bounds, output="sample", normalizer=none())
    still = jax.tree.map(jnp.zeros_like, policy.init(KEY))
    played = make_evaluate(task, policy, num_members=episodes)(KEY, alike(still), None)
    lengths = np.asarray(played.steps)
    error = lengths.std() / np.sqrt(episodes)
    assert abs(lengths.mean() - 22.2) < 4 * error and lengths.std() > 5


def test_actions_are_not_both_drawn_and_noisy():
    policy = make_policy(
        4, CHOICE.action_low, CHOICE.action_high, output="sample", normalizer=none()
    )
    with pytest.raises(ValueError, match="drawn from scores already: action_noise must be 0"):
        make_evaluate("gymnasium/CartPole-v1", policy, num_members=2, action_noise=0.1)
