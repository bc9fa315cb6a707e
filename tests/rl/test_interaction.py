"""The loop in JAX against loops in Python over the same environments."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import CARTPOLE, KEY, recorder

from nesht_jax.envs.distractors import no_action
from nesht_jax.envs.probe import LINEAR_WEIGHTS
from nesht_jax.envs.rollout import make_act
from nesht_jax.envs.tasks import make_task
from nesht_jax.policy.policy import make_policy
from nesht_jax.rl.interaction import make_interaction, within_bounds

STEPS = 60


def played(task, act, steps=STEPS):
    """What an agent learned by heart, [steps, 2, ...], the environments, and the progress."""
    agent = recorder(task, act)
    interaction = make_interaction(task, agent, num_envs=2)
    go = jax.jit(interaction.steps, static_argnums=2)
    state, envs, progress = go(agent.init(KEY), interaction.init(KEY), steps)
    return jax.tree.map(lambda x: np.asarray(x[:steps]), state.rest), envs, progress


def at_random(key, seen):
    return jax.random.normal(key, (2, 2))


@functools.cache
def cartpole(horizon):
    return played(make_task(CARTPOLE, horizon=horizon), at_random)


def lengths(experience, env):
    """Steps of each episode that ended."""
    ends = np.flatnonzero(experience.terminated[:, env] | experience.truncated[:, env])
    return np.diff([-1, *ends])


def physics(experience, horizon):
    """Steps Gymnasium's CartPole from where each episode began, by the recorded actions."""
    world = gymnasium.make("CartPole-v1").unwrapped
    world.reset(seed=0)
    for env in range(2):
        clock = 0
        for t in range(STEPS):
            now = jax.tree.map(lambda x, t=t, env=env: x[t, env], experience)
            if clock == 0:
                world.state, world.steps_beyond_terminated = now.observation, None
            after, reward, terminated, _, _ = world.step(int(now.action.argmax()))
            clock += 1
            yield now, after, reward, terminated, clock >= horizon and not terminated
            clock = 0 if now.terminated or now.truncated else clock


@pytest.mark.parametrize("horizon", [12, 500])
def test_every_step_is_the_simulators(horizon):
    experience, _, _ = cartpole(horizon)
    ends = []
    for now, after, reward, terminated, truncated in physics(experience, horizon):
        np.testing.assert_allclose(now.next_observation, after, rtol=1e-4, atol=1e-5)
        assert (now.reward, now.terminated, now.truncated) == (reward, terminated, truncated)
        ends.append((terminated, truncated))
    assert (np.any(ends, axis=0) == [True, horizon == 12]).all()


def test_an_ended_episode_is_shown_to_its_end_and_another_begins():
    experience, envs, _ = cartpole(500)
    over = experience.terminated | experience.truncated
    same = (experience.next_observation[:-1] == experience.observation[1:]).all(-1)
    np.testing.assert_array_equal(same, ~over[:-1])
    begun = experience.observation[1:][over[:-1]]
    assert (np.abs(begun) <= 0.05).all() and len(np.unique(begun[:, 0])) == len(begun)
    np.testing.assert_array_equal(envs.episodes.number, over.sum(0))


def test_progress_counts_the_returns_of_ended_episodes():
    experience, envs, progress = cartpole(500)
    done = [lengths(experience, env) for env in range(2)]
    assert progress.episodes == sum(len(some) for some in done) > 2
    assert progress.returns == sum(some.sum() for some in done)
    np.testing.assert_array_equal(envs.episodes.steps, [STEPS - some.sum() for some in done])
    np.testing.assert_array_equal(envs.episodes.returns, envs.episodes.steps)


def test_a_time_limit_truncates():
    """``probe/linear`` pays -(a - w·x)², and nothing ever ends it but the horizon."""
    task = make_task("probe/linear", distractors=2)
    experience, _, progress = played(task, lambda key, seen: seen[:, :1])
    x = experience.observation[..., :5]
    paid = -((x[..., 0] - x @ np.float32(LINEAR_WEIGHTS)) ** 2)
    np.testing.assert_allclose(experience.reward, paid, rtol=1e-4, atol=1e-4)
    assert not experience.terminated.any()
    np.testing.assert_array_equal(
        np.flatnonzero(experience.truncated[:, 0]), [9, 19, 29, 39, 49, 59]
    )
    assert progress.episodes == 12
    np.testing.assert_allclose(progress.returns, paid.sum(), rtol=1e-4)


def test_an_end_at_the_horizon_is_an_end():
    experience, _, _ = played(make_task("probe/countdown"), lambda key, seen: seen[:, :1])
    assert experience.terminated.any() and not experience.truncated.any()
    np.testing.assert_array_equal(experience.terminated, experience.next_observation[..., 0] == 0)


def test_without_a_horizon_nothing_is_truncated():
    task = dataclasses.replace(make_task("probe/linear"), horizon=None)
    experience, _, progress = played(task, lambda key, seen: seen[:, :1])
    assert not experience.truncated.any() and progress.episodes == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "slow"])
def test_distractors_are_those_of_a_rollout(kind):
    task = make_task(CARTPOLE, distractors=3, distractor_kind=kind)
    experience, envs, _ = played(task, at_random)
    policy = make_policy(task)
    act = make_act(task, policy, action_noise=0.0)
    for env in range(2):
        episode = jax.tree.map(lambda x, env=env: x[env], envs.episodes)
        bits = jnp.stack([episode.random_bits] * 2)
        shown, steps, idle = episode.observation[:4], episode.steps, no_action(task)
        seen, _ = act(policy.init(KEY), None, shown, bits, steps, idle)
        np.testing.assert_allclose(episode.observation, seen, rtol=1e-5, atol=1e-6)
    features = experience.observation[..., 4:].ravel()
    assert abs(features.mean()) < 0.3 and abs(features.std() - 1) < 0.3


def test_driven_distractors_follow_the_action_that_was_played():
    task = make_task("gymnax/Pendulum-v1", distractors=2, distractor_kind="driven")
    experience, _, _ = played(task, lambda key, seen: 2 * jax.random.normal(key, (2, 1)))
    noise = experience.next_observation[..., 3:] - np.clip(experience.action, -2, 2)
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["observation", "reward"])
def test_what_is_not_finite_ends_its_episode_and_is_not_learned(part, number):
    """The third step of every episode shows or pays such a number."""
    task = make_task(CARTPOLE)
    whole = task.simulator

    def step(state, action):
        after = whole.step(state[0], action)
        bad = jnp.where(state[1] == 2, number, 0)
        spoiled = after._replace(**{part: getattr(after, part) + bad})
        return spoiled._replace(state=(after.state, state[1] + 1))

    def reset(key):
        state, seen = whole.reset(key)
        return (state, jnp.int32(0)), seen

    faulty = dataclasses.replace(task, simulator=whole._replace(reset=reset, step=step))
    experience, _, progress = played(faulty, at_random)
    assert all(np.isfinite(x).all() for x in experience)
    ends = np.arange(STEPS) % 3 == 2
    np.testing.assert_array_equal(experience.terminated, ends[:, None].repeat(2, 1))
    assert not experience.truncated.any() and (experience.reward == ~experience.terminated).all()
    held = experience.next_observation == experience.observation
    np.testing.assert_array_equal(held.all(-1), experience.terminated)
    assert (progress.failed, progress.episodes, progress.returns) == (40, 40, 80)


def test_a_reset_that_shows_what_is_not_finite_shows_zeros():
    task = make_task(CARTPOLE)
    whole = task.simulator

    def reset(key):
        state, seen = whole.reset(key)
        return state, seen.at[1].set(jnp.nan)

    faulty = dataclasses.replace(task, simulator=whole._replace(reset=reset))
    experience, _, progress = played(faulty, at_random)
    assert all(np.isfinite(x).all() for x in experience) and progress.failed == 0
    assert (experience.observation[0, :, 1] == 0).all() and experience.observation[0, :, 0].all()


def test_actions_are_learned_as_said_and_played_within_bounds():
    task = make_task("gymnax/Pendulum-v1")
    wild = jnp.array([[-7.0], [1.0]])
    experience, _, _ = played(task, lambda key, seen: wild, 1)
    tame, _, _ = played(task, lambda key, seen: jnp.array([[-2.0], [1.0]]), 1)
    np.testing.assert_array_equal(experience.action[0], wild)
    np.testing.assert_array_equal(experience.next_observation, tame.next_observation)
    np.testing.assert_array_equal(within_bounds(task, wild), [[-2.0], [1.0]])


def test_a_host_simulator_is_refused():
    task = make_task("gymnasium/CartPole-v1")
    with pytest.raises(ValueError, match="steps outside JAX: HostInteraction steps it"):
        make_interaction(task, recorder(task, at_random), num_envs=2)


def test_no_environment_is_refused():
    task = make_task(CARTPOLE)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make_interaction(task, recorder(task, at_random), num_envs=0)
