"""The Playground room against Playground stepped directly."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

playground = pytest.importorskip("mujoco_playground", reason="pip install 'nesht-jax[playground]'")
room = importlib.import_module("nesht_jax.envs.playground")

pytestmark = pytest.mark.simulator


def test_names_are_those_whose_files_are_here(monkeypatch, tmp_path):
    monkeypatch.setattr(room.mjx_env, "MENAGERIE_PATH", tmp_path / "missing")
    assert "CartpoleBalance" in room.names() and "Go1JoystickFlatTerrain" not in room.names()
    monkeypatch.setattr(room.mjx_env, "MENAGERIE_PATH", tmp_path)
    assert {"CartpoleBalance", "Go1JoystickFlatTerrain"} <= set(room.names())


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refused(*arguments):
        raise AssertionError("a clone was tried")

    monkeypatch.setattr(room.mjx_env, "_clone_with_progress", refused)


TRACED = [
    pytest.param(name, marks=() if name == "PendulumSwingup" else pytest.mark.slow)
    for name in room.dm_control_suite.ALL_ENVS
]


@pytest.mark.parametrize("name", TRACED)
def test_types_of_every_task(name):
    """Traced, not run: a step's state has the structure, shapes and types of the reset's."""
    environment = room.make(name, {})
    spec = environment.spec
    assert spec.horizon == 1000
    state, observation = jax.eval_shape(environment.reset, jax.random.key(0))
    after = jax.eval_shape(environment.step, state, jnp.zeros(spec.action_low.size))
    assert jax.tree.structure(after.state) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after.state), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert after.observation.shape == observation.shape == (spec.observation_size,)
    assert (after.reward.shape, after.reward.dtype) == ((), jnp.float32)
    assert (after.terminated.shape, after.terminated.dtype) == ((), jnp.bool)


def test_mjx_simulates_in_jax_unless_told_otherwise(monkeypatch):
    given = []

    def load(name, config, overrides):
        given.append(overrides)
        raise TypeError("enough")

    monkeypatch.setattr(room.registry, "load", load)
    for options in ({}, {"impl": "warp"}):
        with pytest.raises(ValueError, match="cannot be made with .*: enough"):
            room.make("WalkerRun", options)
    assert given == [{"impl": "jax"}, {"impl": "warp"}]


def test_options_reach_playground():
    environment = room.make("PendulumSwingup", {"episode_length": 70})
    assert environment.spec.horizon == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sim_td": 0.1}, "playground/CartpoleBalance has no option 'sim_td'; .* sim_dt"),
        ({"vision_config.nwrld": 2}, "the nearest are vision_config.nworld"),
        ({"action_repeat": 2}, "no option 'action_repeat'"),
        ({"sim_dt": "often"}, "playground/CartpoleBalance cannot be made with"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        room.make("CartpoleBalance", options)


def test_of_an_observation_in_parts_the_policy_sees_the_state(monkeypatch):
    task = room.dm_control_suite.pendulum.SwingUp
    original = task._get_obs

    def parts(self, data, info):
        seen = original(self, data, info)
        return {"state": seen, "privileged_state": jnp.concatenate([seen, seen])}

    plain = room.spec("PendulumSwingup", {})
    monkeypatch.setattr(task, "_get_obs", parts)
    assert room.spec("PendulumSwingup", {}).observation_size == plain.observation_size
    monkeypatch.setattr(task, "_get_obs", lambda self, data, info: jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="must observe one flat vector, got \\(2, 2\\)"):
        room.spec("PendulumSwingup", {})


@pytest.mark.slow
def test_steps_are_playgrounds():
    environment = room.make("CartpoleBalance", {})
    task = playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    actions = jax.random.uniform(jax.random.key(1), (40, 1), minval=-1.0, maxval=1.0)

    def ours(state, action):
        after = environment.step(state, action)
        return after.state, (after.observation, after.reward, after.terminated)

    def theirs(state, action):
        after = task.step(state, action)
        return after, (after.obs, after.reward, after.done.astype(bool))

    state, observation = jax.jit(environment.reset)(jax.random.key(0))
    reset = jax.jit(task.reset)(jax.random.key(0))
    np.testing.assert_array_equal(observation, reset.obs)
    _, stepped = jax.jit(lambda s: jax.lax.scan(ours, s, actions))(state)
    _, expected = jax.jit(lambda s: jax.lax.scan(theirs, s, actions))(reset)
    for mine, playgrounds in zip(stepped, expected, strict=True):
        np.testing.assert_allclose(mine, playgrounds, rtol=1e-5, atol=1e-5)
    assert len(np.unique(stepped[1])) > 10
