"""Distractors, and noise on actions, against what their distributions must be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax.envs.distractors import act, append, num_action_normals
from nesht_jax.envs.rollout import make_act
from nesht_jax.envs.tasks import make_evaluate, make_task
from nesht_jax.types import Policy, Task, replicate

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(0)
OBSERVATION = jnp.array([3.0, -4.0])
BITS = jax.random.bits(jax.random.key(11), (2, 2), jnp.uint32)


def task_of(low, high, *, discrete=False):
    low, high = np.float32(low), np.float32(high)
    return Task("probe/none", {}, 2, low, high, discrete, horizon=10)


CHOICE = task_of([-np.inf] * 3, [np.inf] * 3, discrete=True)
BODY = task_of([-1, -0.2], [1, 0.3])


# -------------------------------------------------------------------------------------- distractors


features = jax.jit(
    jax.vmap(jax.vmap(lambda bits, t: append(OBSERVATION, 2, bits, t), (None, 0)), (0, None))
)


@functools.cache
def drawn():
    """Of 100 episodes of 50 steps: [100, 50, 4] distractors."""
    seen = features(jax.random.bits(jax.random.key(11), (100, 2), jnp.uint32), jnp.arange(50))
    return np.asarray(seen)[..., 2:]


def test_the_true_observation_comes_first_untouched():
    seen = features(jax.random.bits(KEY, (3, 2), jnp.uint32), jnp.arange(4))
    np.testing.assert_array_equal(seen[..., :2], np.broadcast_to(OBSERVATION, (3, 4, 2)))


def test_without_distractors_the_observation_is_all():
    np.testing.assert_array_equal(append(OBSERVATION, 0, BITS[0], jnp.int32(0)), OBSERVATION)


@pytest.mark.parametrize(
    ("power", "expected", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_distractors_are_standard_normal(power, expected, variance):
    powers = drawn() ** power
    standard_error = np.sqrt(variance / powers.size)
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * standard_error


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["episodes", "steps", "features"])
@pytest.mark.parametrize("lag", [1, 2])
def test_distractors_are_independent_across(axis, lag):
    numbers = np.moveaxis(drawn(), axis, 0)
    products = numbers[lag:] * numbers[:-lag]
    assert abs(products.mean()) < STANDARD_ERRORS / np.sqrt(products.size)


def test_distractors_are_fresh_each_step_and_episode():
    assert len(np.unique(drawn())) > 0.99 * drawn().size


# ------------------------------------------------------------------------------ actions from scores


def test_draws_an_action_from_the_softmax_of_the_scores():
    scores, n = jnp.array([1.0, -0.5, 2.0]), 40_000
    normals = jax.random.normal(KEY, (n, 3))
    said = jnp.broadcast_to(scores, (n, 3))
    done = act(said, normals, CHOICE, action_noise=0.0, stochastic=True).argmax(1)
    weights = np.exp(np.asarray(scores, np.float64))
    expected = n * weights / weights.sum()
    assert stats.chisquare(np.bincount(done, minlength=3), expected).pvalue > 1e-3


@pytest.mark.parametrize("extreme", [-5.4, 5.4])
def test_gumbel_noise_is_finite_at_the_ends_of_the_normals(extreme):
    made = act(jnp.zeros(3), jnp.full(3, extreme), CHOICE, action_noise=0.0, stochastic=True)
    expected = stats.gumbel_r.ppf(stats.norm.cdf(extreme))
    if extreme > 0:
        expected = -np.log(-stats.norm.logcdf(extreme))
    np.testing.assert_allclose(made, np.full(3, expected), rtol=1e-4)


def still(task, *, stochastic=False):
    """A policy that says 0 whatever it sees."""
    zeros = jnp.zeros(task.num_actions)
    return Policy(lambda key: zeros, lambda params, moments, x: params, stochastic=stochastic)


@pytest.mark.parametrize(
    "name",
    ["gymnasium/CartPole-v1", pytest.param("gymnax/CartPole-v1", marks=pytest.mark.slow)],
)
def test_suites_draw_actions_from_scores(name):
    """Scores that say nothing: a coin, whose games last as those of a coin do, 22 steps."""
    task, episodes = make_task(name), 64
    policy = still(task, stochastic=True)
    played = make_evaluate(task, policy, num_members=episodes)(
        KEY, replicate(policy.init(KEY)), None
    )
    lengths = np.asarray(played.steps)
    error = lengths.std() / np.sqrt(episodes)
    assert abs(lengths.mean() - 22.2) < 4 * error and lengths.std() > 5


# ------------------------------------------------------------------------------------- action noise


def test_no_action_leaves_finite_bounds():
    """With noise or without, of one environment or of many."""
    normals = jnp.array([[0.5, 9.0], [-9.0, -1.0]])
    made = act(jnp.zeros((2, 2)), normals, BODY, action_noise=0.2, stochastic=False)
    np.testing.assert_allclose(made, [[0.1, 0.3], [-1, -0.2]], atol=1e-6)
    alone = act(jnp.zeros(2), normals[0], BODY, action_noise=0.2, stochastic=False)
    np.testing.assert_array_equal(alone, made[0])
    said = jnp.array([3.0, 0.25])
    plain = act(said, jnp.zeros(0), BODY, action_noise=0.0, stochastic=False)
    np.testing.assert_array_equal(plain, np.float32([1, 0.25]))
    half = task_of([-np.inf, 0], [0, np.inf])
    plain = act(jnp.array([-9.0, -9.0]), jnp.zeros(0), half, action_noise=0.0, stochastic=False)
    np.testing.assert_array_equal(plain, [-9.0, 0.0])


def test_without_noise_and_bounds_an_action_is_what_it_is():
    assert num_action_normals(CHOICE, action_noise=0.0, stochastic=False) == 0
    assert num_action_normals(CHOICE, action_noise=0.0, stochastic=True) == 3
    said = jnp.array([3.0, -3.0, 9.0])
    assert act(said, jnp.zeros(0), CHOICE, action_noise=0.0, stochastic=False) is said


def actions(bound, action_noise, steps=2000):
    """Of a policy that does nothing, at every step of one episode."""
    task = task_of([-bound], [bound])
    policy = still(task)
    acting = make_act(task, policy, action_noise=action_noise)
    step = jax.vmap(lambda t: acting(policy.init(KEY), None, OBSERVATION, BITS, t)[1])
    return np.asarray(step(jnp.arange(steps)))[:, 0]


def test_action_noise_has_the_scale_asked_for():
    noise = actions(np.inf, 0.3)
    assert abs(noise.mean()) < STANDARD_ERRORS * 0.3 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.3 - 1) < STANDARD_ERRORS / np.sqrt(2 * noise.size)


def test_action_noise_is_fresh_each_step():
    noise = actions(np.inf, 0.3)
    assert abs((noise[1:] * noise[:-1]).mean()) < STANDARD_ERRORS * 0.3**2 / np.sqrt(noise.size)


def test_noisy_actions_keep_their_bounds():
    noise = actions(0.2, 0.3)
    assert noise.min() == np.float32(-0.2) and noise.max() == np.float32(0.2)


def test_without_action_noise_actions_are_the_policys():
    assert (actions(1.0, 0.0, steps=5) == 0).all()


def test_actions_are_not_both_drawn_and_noisy():
    with pytest.raises(ValueError, match="drawn from scores already: action_noise must be 0"):
        make_evaluate(CHOICE, still(CHOICE, stochastic=True), num_members=2, action_noise=0.1)
