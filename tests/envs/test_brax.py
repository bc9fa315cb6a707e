"""The Brax suite against Brax stepped directly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs

from nesht_jax.envs import brax as suite

# Brax 0.14.2, 2026: unmaintained, says so itself, and reads fields that MJX has deprecated
pytestmark = [
    pytest.mark.simulator,
    pytest.mark.filterwarnings("ignore:Brax System:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing .* directly from `Data`:DeprecationWarning"),
]

SIZES = {  # observation features, actions: Gymnasium v4's, but for its unused contact forces
    "ant": (27, 8),
    "halfcheetah": (17, 6),
    "hopper": (11, 3),
    "humanoid": (244, 17),
    "humanoidstandup": (244, 17),
    "inverted_double_pendulum": (8, 1),
    "inverted_pendulum": (4, 1),
    "pusher": (23, 7),
    "reacher": (11, 2),
    "walker2d": (17, 6),
}

CASES = [
    pytest.param("inverted_pendulum", {"backend": "generalized"}, 60, marks=pytest.mark.slow),
    pytest.param("hopper", {}, 60, marks=pytest.mark.slow),
    pytest.param("inverted_pendulum", {"backend": "mjx"}, 60, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "options", "steps"), CASES)
def test_steps_are_braxs(name, options, steps):
    environment = suite.make(name, options).simulator
    task = envs.get_environment(name, **{"backend": "spring", **options})
    key, action_key = jax.random.split(jax.random.key(0))
    actions = jax.random.uniform(action_key, (steps, task.action_size), minval=-1.0, maxval=1.0)

    def ours(state, action):
        after = environment.step(state, action)
        return after.state, (after.observation, after.reward, after.terminated)

    def theirs(state, action):
        after = task.step(jax.tree.map(lambda x: x, state), action)
        # a scan wants the types that a reset gave
        after = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), after, state)
        return after, (after.obs, after.reward, after.done.astype(bool))

    state, observation = jax.jit(environment.reset)(key)
    reset = jax.jit(task.reset)(key)
    np.testing.assert_array_equal(observation, reset.obs)
    _, stepped = jax.jit(lambda s: jax.lax.scan(ours, s, actions))(state)
    _, expected = jax.jit(lambda s: jax.lax.scan(theirs, s, actions))(reset)
    for mine, brax in zip(stepped, expected, strict=True):
        np.testing.assert_allclose(mine, brax, rtol=1e-5, atol=1e-5)
    assert 0 < np.mean(stepped[2]) < 1  # the episode lives, then terminates


# a task takes seconds to trace
TRACED = [
    pytest.param(name, marks=() if name == "inverted_pendulum" else pytest.mark.slow)
    for name in suite.names()
]


@pytest.mark.parametrize("name", TRACED)
def test_sizes_and_types_of_every_task(name):
    """Traced, not run: a step's state has the structure, shapes and types of the reset's."""
    task = suite.make(name, {})
    assert (task.observation_size, task.num_actions) == SIZES[name]
    np.testing.assert_array_equal(task.action_low, -np.ones(SIZES[name][1]))
    np.testing.assert_array_equal(task.action_high, np.ones(SIZES[name][1]))
    assert (task.horizon, task.discrete, task.image_shape) == (1000, False, None)

    state, observation = jax.eval_shape(task.simulator.reset, jax.random.key(0))
    after = jax.eval_shape(task.simulator.step, state, jnp.zeros(SIZES[name][1]))
    assert jax.tree.structure(after.state) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after.state), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert after.observation.shape == observation.shape == (task.observation_size,)
    assert (after.reward.shape, after.reward.dtype) == ((), jnp.float32)
    assert (after.terminated.shape, after.terminated.dtype) == ((), jnp.bool)


def test_names_are_the_tasks_that_work():
    assert suite.names() == sorted(SIZES)


def test_options_reach_brax():
    seeing = suite.make("hopper", {"exclude_current_positions_from_observation": False})
    assert seeing.observation_size == 12


@pytest.mark.slow
def test_a_plain_number_for_done_is_a_boolean():
    # here Brax gives a plain 0.0 for done
    immortal = suite.make("hopper", {"terminate_when_unhealthy": False}).simulator
    state, _ = jax.eval_shape(immortal.reset, jax.random.key(0))
    assert jax.eval_shape(immortal.step, state, jnp.zeros(3)).terminated.dtype == jnp.bool


def test_a_step_leaves_its_argument_alone():
    environment = suite.make("reacher", {}).simulator
    shapes, _ = jax.eval_shape(environment.reset, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    before = dict(state.metrics)
    assert before
    jax.eval_shape(lambda action: environment.step(state, action), jnp.ones(2))
    assert all(state.metrics[name] is value for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "sprung"}, "brax/hopper: backend must be one of spring, .*, got 'sprung'"),
        (
            {"healthy_rewards": 2.0},
            "brax/hopper has no option 'healthy_rewards'; .* healthy_reward",
        ),
        ({"sys": None}, "brax/hopper has no option 'sys'"),
        ({"backend": ["mjx"]}, "backend must be one of"),
        ({"episode_length": 50}, "brax/hopper has no option 'episode_length': set horizon"),
        (
            {"reset_noise_scale": "much"},
            "brax/hopper cannot be made with {'reset_noise_scale': 'much'}: TypeError",
        ),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        suite.make("hopper", options)


def test_an_observation_that_is_no_vector_is_told(monkeypatch):
    class Split(envs.reacher.Reacher):
        def reset(self, rng):
            state = super().reset(rng)
            return dataclasses.replace(state, obs={"state": state.obs})

    monkeypatch.setitem(envs._envs, "split", Split)
    assert "split" in suite.names()
    with pytest.raises(ValueError, match="brax/split must observe one flat vector, got .*state"):
        suite.make("split", {})
