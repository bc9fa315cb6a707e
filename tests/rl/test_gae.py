"""Advantages against a loop in NumPy, and against rejax where nothing is truncated."""

import jax.numpy as jnp
import numpy as np
import pytest
from rejax import PPO
from rejax.algos.ppo import Trajectory

from nesht_jax.rl.gae import advantages_of

DISCOUNT, TRACE = 0.9, 0.7


def rollout(steps, envs, truncating, seed=0):
    generator = np.random.default_rng(seed)
    rewards, values, after = generator.normal(size=(3, steps, envs)).astype(np.float32)
    terminated = generator.random((steps, envs)) < 0.2
    truncated = (generator.random((steps, envs)) < 0.2) & ~terminated & truncating
    return rewards, values, after, terminated, truncated


def estimated(rewards, values, after, terminated, truncated):
    arrays = (jnp.asarray(x) for x in (rewards, values, after))
    ends = {"terminated": jnp.asarray(terminated), "truncated": jnp.asarray(truncated)}
    return np.asarray(advantages_of(*arrays, **ends, discount=DISCOUNT, trace=TRACE))


@pytest.mark.parametrize("truncating", [False, True])
def test_advantages_are_sums_of_discounted_errors(truncating):
    """Σ_k (γλ)^k δ_{t+k} up to the end of the episode or of the rollout."""
    rewards, values, after, terminated, truncated = told = rollout(12, 3, truncating)
    expected = np.zeros((12, 3))
    for t, env in np.ndindex(12, 3):
        for k in range(12 - t):
            now = t + k, env
            future = 0 if terminated[now] else after[now]
            error = rewards[now] + DISCOUNT * future - values[now]
            expected[t, env] += (DISCOUNT * TRACE) ** k * error
            if terminated[now] or truncated[now]:
                break
    np.testing.assert_allclose(estimated(*told), expected, rtol=1e-5, atol=1e-5)


def test_rejax_agrees_where_nothing_is_truncated():
    rewards, values, after, terminated, truncated = rollout(12, 3, truncating=False)
    after[:-1] = values[1:]
    theirs = PPO.create(env="CartPole-v1", gamma=DISCOUNT, gae_lambda=TRACE)
    nothing = jnp.zeros((12, 3))
    trajectory = Trajectory(
        nothing, nothing, nothing, *map(jnp.asarray, (rewards, values, terminated))
    )
    last = jnp.where(terminated[-1], 0, after[-1])
    expected, _ = theirs.calculate_gae(trajectory, last)
    ours = estimated(rewards, values, after, terminated, truncated)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_time_limit_is_no_end_of_the_value():
    """For ever 1 a step, cut at every step: the value is 1/(1 - γ), not 1."""
    value, always = 1 / (1 - DISCOUNT), np.ones((1, 1), bool)
    told = [np.full((1, 1), x, np.float32) for x in (1, value, value)]
    np.testing.assert_allclose(estimated(*told, ~always, always), 0, atol=1e-5)
    np.testing.assert_allclose(estimated(*told, always, ~always), 1 - value, rtol=1e-5)
