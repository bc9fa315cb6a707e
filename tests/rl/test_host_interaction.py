"""The loop over host simulators against Gymnasium, one environment at a time."""

import functools

import gymnasium
import jax
import numpy as np
import pytest
from rl_helpers import KEY, recorder

from nesht_jax.envs.host_distractors import PLAYED
from nesht_jax.envs.tasks import make_distractors, make_task, make_vector, reference_observations
from nesht_jax.rl.host import HostInteraction

STEPS = 50


def at_random(key, seen):
    return jax.random.normal(key, (2, 2))


def played(task, *, act=at_random, vector_seed=3, parts=(STEPS,)):
    agent = recorder(task, act)
    vector = make_vector(task, num_envs=2, seed=vector_seed)
    drawn = make_distractors(task, num_envs=2)
    interaction = HostInteraction(task, agent, vector, seed=1, distractors=drawn)
    state, progress = jax.jit(agent.init)(KEY), []
    for n in parts:
        state, told = interaction.steps(state, n)
        progress.append(told)
    vector.close()
    return jax.tree.map(lambda x: np.asarray(x[:STEPS]), state.rest), progress


@functools.cache
def cartpole(horizon=9):
    return played(make_task("gymnasium/CartPole-v1", horizon=horizon))


def test_every_step_is_gymnasiums():
    experience, (progress,) = cartpole()
    seeds = np.random.SeedSequence(3).generate_state(2) >> 1
    returns = []
    for env, seed in enumerate(seeds.tolist()):
        world = gymnasium.make("CartPole-v1")
        (seen, _), clock = world.reset(seed=seed), 0
        for t in range(STEPS):
            now = jax.tree.map(lambda x, t=t, env=env: x[t, env], experience)
            np.testing.assert_array_equal(now.observation, seen.astype(np.float32))
            seen, reward, terminated, _, _ = world.step(int(now.action.argmax()))
            clock += 1
            np.testing.assert_array_equal(now.next_observation, seen.astype(np.float32))
            cut = clock >= 9 and not terminated
            assert (now.reward, now.terminated, now.truncated) == (reward, terminated, cut)
            if terminated or cut:
                returns.append(clock)
                (seen, _), clock = world.reset(), 0
        world.close()
    assert experience.truncated.any() and experience.terminated.any()
    assert (progress.episodes, progress.returns) == (len(returns), sum(returns))
    assert bool(progress.metrics["finite"])


def test_the_same_seed_gives_the_same_steps_in_one_call_or_in_two():
    experience, _ = cartpole()
    again, progress = played(make_task("gymnasium/CartPole-v1", horizon=9), parts=(20, 30))
    jax.tree.map(np.testing.assert_array_equal, again, experience)
    assert len(progress) == 2


class Faulty:
    """Environments whose steps of these numbers show or pay what is not a finite number, and whose
    first reset shows one."""

    def __init__(self, vector, part, numbers, value):
        self.num_envs, self._vector, self._part = vector.num_envs, vector, part
        self._numbers, self._value, self._step, self.resets = numbers, value, 0, []
        self.close = vector.close

    def reset(self, ids):
        self.resets.append(ids.tolist())
        seen = self._vector.reset(ids).copy()
        if len(self.resets) == 1:
            seen[0, 2] = np.nan
        return seen

    def step(self, actions, ids):
        after = self._vector.step(actions, ids)
        told = np.array(getattr(after, self._part))
        if self._step in self._numbers:
            told[0] = self._value
        self._step += 1
        return after._replace(**{self._part: told})


@pytest.mark.parametrize(
    ("part", "value"),
    [("observation", np.nan), ("observation", np.inf), ("reward", np.nan), ("reward", -1e300)],
)
def test_what_is_not_finite_ends_its_episode_and_is_not_learned(part, value):
    task = make_task("gymnasium/CartPole-v1")
    vector = Faulty(make_vector(task, num_envs=2, seed=3), part, (2, 4), value)
    agent = recorder(task, at_random)
    interaction = HostInteraction(task, agent, vector, seed=1)
    state, progress = interaction.steps(jax.jit(agent.init)(KEY), 6)
    vector.close()
    experience = jax.tree.map(lambda x: np.asarray(x[:6]), state.rest)
    assert all(np.isfinite(x).all() for x in experience)
    assert experience.observation[0, 0, 2] == 0 and experience.observation[0, 1, 2] != 0
    np.testing.assert_array_equal(experience.terminated[:, 0], [0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(experience.reward[:, 0], [1, 1, 0, 1, 0, 1])
    held = (experience.next_observation == experience.observation).all(-1)
    np.testing.assert_array_equal(held, experience.terminated)
    assert (progress.failed, progress.episodes, progress.returns) == (2, 2, 3)
    assert vector.resets == [[0, 1], [0], [0]]


def distracted(kind, suite="gymnasium"):
    """Distractors [steps, envs, features], and where episodes ended."""
    pytest.importorskip(suite, reason=f"{suite} has no wheel for this machine")
    task = make_task(f"{suite}/CartPole-v1", distractors=20, distractor_kind=kind)
    experience, _ = played(task)
    over = (experience.terminated | experience.truncated)[:-1]
    same = experience.next_observation[:-1] == experience.observation[1:]
    assert same[~over].all() and not same[over].any()
    return experience.observation[..., 4:], over


@pytest.mark.parametrize("suite", ["gymnasium", "envpool"])
@pytest.mark.parametrize(("kind", "deviation"), [("normal", 1), ("slow", 1), ("scaled", 10)])
def test_distractors_go_on_within_an_episode(kind, deviation, suite):
    features, over = distracted(kind, suite)
    assert abs(features.mean()) < 0.15 * deviation
    assert abs(features.std() / deviation - 1) < 0.15
    moves = np.abs(np.diff(features, axis=0))[~over].mean()
    assert (moves < 0.4) == (kind == "slow")


def test_driven_distractors_follow_the_action_that_was_played():
    task = make_task("gymnasium/Pendulum-v1", distractors=2, distractor_kind="driven")
    experience, _ = played(task, act=lambda key, seen: 2 * jax.random.normal(key, (2, 1)))
    noise = experience.next_observation[..., 3:] - np.clip(experience.action, -2, 2)
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["gymnasium", "envpool"])
@pytest.mark.parametrize("kind", ["marginal", "replayed"])
def test_some_distractors_are_values_of_random_play(kind, suite):
    features, over = distracted(kind, suite)
    bare = make_task(f"{suite}/CartPole-v1")
    seen = reference_observations(bare, number=PLAYED, seed=0)
    segments = features.reshape(*features.shape[:-1], 20, 4)
    for feature in range(4):
        assert np.isin(segments[..., feature], np.asarray(seen)[:, feature]).all()
    whole = {row.tobytes() for row in np.asarray(seen, np.float32)}
    found = np.mean([row.tobytes() in whole for row in segments.reshape(-1, 4)])
    assert found == 1 if kind == "replayed" else found < 0.1


def test_distractors_of_what_shows_bytes_are_on_its_scale():
    pytest.importorskip("envpool", reason="envpool has no wheel for this machine")
    task = make_task("envpool/Pong-v5", distractors=1)
    drawn = make_distractors(task, num_envs=3)
    assert drawn is not None
    features = drawn.draw(np.random.SFC64(0), np.arange(3), 0)
    assert features.shape == (3, task.observation_size)
    assert 0 <= features.min() < 0.02 and 0.98 < features.max() <= 1


def test_a_task_without_distractors_has_nothing_that_draws_them():
    assert make_distractors(make_task("gymnasium/CartPole-v1"), num_envs=2) is None


def test_distractors_that_nothing_draws_are_refused():
    task = make_task("gymnasium/CartPole-v1", distractors=1)
    vector = make_vector(task, num_envs=2, seed=0)
    with pytest.raises(ValueError, match="has distractors: give HostInteraction distractors="):
        HostInteraction(task, recorder(task, at_random), vector, seed=0)
    vector.close()
