"""The Playground suite against Playground stepped directly."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

playground = pytest.importorskip("mujoco_playground", reason="pip install 'nesht-jax[playground]'")
suite = importlib.import_module("nesht_jax.envs.playground")

pytestmark = pytest.mark.simulator


def test_names_are_those_whose_files_are_here(monkeypatch, tmp_path):
    monkeypatch.setattr(suite.mjx_env, "MENAGERIE_PATH", tmp_path / "missing")
    assert "CartpoleBalance" in suite.names() and "Go1JoystickFlatTerrain" not in suite.names()
    monkeypatch.setattr(suite.mjx_env, "MENAGERIE_PATH", tmp_path)
    assert {"CartpoleBalance", "Go1JoystickFlatTerrain"} <= set(suite.names())


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refused(*arguments):
        raise AssertionError("a clone was tried")

    monkeypatch.setattr(suite.mjx_env, "_clone_with_progress", refused)


TRACED = [
    pytest.param(name, marks=() if name == "PendulumSwingup" else pytest.mark.slow)
    for name in suite.dm_control_suite.ALL_ENVS
]


@pytest.mark.parametrize("name", TRACED)
def test_types_of_every_task(name):
    """Traced, not run: a step's state has the structure, shapes and types of the reset's."""
    task = suite.make(name, {})
    environment = task.simulator
    assert (task.horizon, task.terminates, task.discrete) == (1000, False, False)
    assert len(set(task.feature_names)) == task.observation_size
    assert len(set(task.action_names)) == task.num_actions
    state, observation = jax.eval_shape(environment.reset, jax.random.key(0))
    after = jax.eval_shape(environment.step, state, jnp.zeros(task.num_actions))
    assert jax.tree.structure(after.state) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after.state), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert after.observation.shape == observation.shape == (task.observation_size,)
    assert (after.reward.shape, after.reward.dtype) == ((), jnp.float32)
    assert (after.terminated.shape, after.terminated.dtype) == ((), jnp.bool)


def test_mjx_simulates_in_jax_unless_told_otherwise(monkeypatch):
    given = []

    def load(name, config, overrides):
        given.append(overrides)
        raise TypeError("enough")

    monkeypatch.setattr(suite.registry, "load", load)
    with pytest.raises(ValueError, match="WalkerRun cannot be made: TypeError: enough"):
        suite.make("WalkerRun", {})
    with pytest.raises(ValueError, match="cannot be made with .*: TypeError: enough"):
        suite.make("WalkerRun", {"impl": "warp"})
    assert given == [{"impl": "jax"}, {"impl": "warp"}]


def test_options_reach_playground():
    assert suite.make("PendulumSwingup", {"episode_length": 70}).horizon == 70


def test_nested_options_are_maps_or_names_with_dots():
    config = suite.registry.get_default_config("CartpoleBalance")
    for given in ({"vision_config.nworld": 2}, {"vision_config": {"nworld": 2}}):
        expected = {"impl": "jax", "vision_config.nworld": 2}
        assert suite._overrides("playground/CartpoleBalance", config, given) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sim_td": 0.1}, "playground/CartpoleBalance has no option 'sim_td'; .* sim_dt"),
        ({"vision_config.nwrld": 2}, "did you mean vision_config.nworld"),
        ({"vision_config": {"nwrld": 2}}, "did you mean vision_config.nworld"),
        pytest.param(
            {"vision": True},
            "playground/CartpoleBalance cannot be made with {'vision': True}: NotImplementedError",
            marks=pytest.mark.slow,  # it imports warp
        ),
        ({"sim_dt": [1, 2]}, "playground/CartpoleBalance cannot be made with"),
        ({"max_episode_steps": 9}, "no option 'max_episode_steps': set horizon"),
        ({"action_repeat": 2}, "no option 'action_repeat'"),
        ({"sim_dt": "often"}, "playground/CartpoleBalance cannot be made with"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        suite.make("CartpoleBalance", options)


def test_of_an_observation_in_parts_the_policy_sees_the_state(monkeypatch):
    task = suite.dm_control_suite.pendulum.SwingUp
    original = task._get_obs

    def parts(self, data, info):
        seen = original(self, data, info)
        return {"state": seen, "privileged_state": jnp.concatenate([seen, seen])}

    plain = suite.make("PendulumSwingup", {})
    monkeypatch.setattr(task, "_get_obs", parts)
    assert suite.make("PendulumSwingup", {}).observation_size == plain.observation_size
    monkeypatch.setattr(task, "_get_obs", lambda self, data, info: jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="must observe one flat vector, got \\(2, 2\\)"):
        suite.make("PendulumSwingup", {})


@pytest.mark.slow
def test_steps_are_playgrounds():
    environment = suite.make("CartpoleBalance", {}).simulator
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
