"""The gymnax room against gymnax stepped directly."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax import make_evaluate, make_policy, task_spec
from nesht_jax.contract import alike
from nesht_jax.normalize import none

gymnax = pytest.importorskip("gymnax", reason="pip install 'nesht-jax[gymnax]'")
room = importlib.import_module("nesht_jax.envs.gymnax")

# gymnax 0.0.9 asks for int64, and the tests below step it bare
pytestmark = [
    pytest.mark.simulator,
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning"),
    pytest.mark.filterwarnings("ignore:scatter inputs have incompatible:FutureWarning"),
]

SOME = {  # observation features, actions, horizon
    "CartPole-v1": (4, 2, 500),
    "Pendulum-v1": (3, 1, 200),
    "Breakout-MinAtar": (400, 3, 1000),
    "DeepSea-bsuite": (64, 2, 2000),
    "FourRooms-misc": (4, 4, 500),
}
SCORES = {"CartPole-v1", "Breakout-MinAtar", "DeepSea-bsuite", "FourRooms-misc"}


@pytest.mark.parametrize("name", SOME)
def test_sizes(name):
    spec = room.spec(name, {})
    assert (spec.observation_size, len(spec.action_low), spec.horizon) == SOME[name]
    assert (spec.action_high == np.inf).all() == (name in SCORES)
    np.testing.assert_array_equal(spec.action_low, -spec.action_high)


@pytest.mark.parametrize("name", room.names())
def test_types_of_every_task(name):
    """Traced, not run: a step's state has the structure, shapes and types of the reset's."""
    environment = room.make(name, {})
    state, observation = jax.eval_shape(environment.reset, jax.random.key(0))
    actions = jnp.zeros(environment.spec.action_low.size)
    after = jax.eval_shape(environment.step, state, actions)
    assert jax.tree.structure(after.state) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after.state), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert after.observation.shape == observation.shape == (environment.spec.observation_size,)
    assert (after.reward.shape, after.reward.dtype) == ((), jnp.float32)
    assert (after.terminated.shape, after.terminated.dtype) == ((), jnp.bool)


def test_names_need_no_network():
    assert "MNISTBandit-bsuite" not in room.names()
    assert {"CartPole-v1", "Breakout-MinAtar", "Catch-bsuite"} <= set(room.names())


@pytest.mark.parametrize(
    "name",
    ["CartPole-v1", *(pytest.param(n, marks=pytest.mark.slow) for n in SOME if n[0] in "BP")],
)
def test_steps_are_gymnaxs_and_never_reset(name):
    """Beyond the end as well, where gymnax's own ``step`` would begin anew."""
    task, params = gymnax.make(name)
    environment = room.make(name, {})
    bound = jnp.minimum(environment.spec.action_high, 2.0)
    wishes = jax.random.uniform(jax.random.key(1), (60, bound.size), minval=-bound, maxval=bound)

    def theirs(carry, wish):
        (key, state), over = carry
        key, step_key = jax.random.split(key)
        action = jnp.argmax(wish) if name in SCORES else wish
        observation, state, reward, done, _ = task.step_env(step_key, state, action, params)
        state = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), state, carry[0][1])
        return ((key, state), over | done), (observation.ravel(), reward, over | done)

    def ours(carry, wish):
        state, over = carry
        after = environment.step(state, wish)
        over = over | after.terminated
        return (after.state, over), (after.observation, after.reward, over)

    state, observation = jax.jit(environment.reset)(jax.random.key(0))
    key, reset_key = jax.random.split(jax.random.key(0))
    expected, begun = jax.jit(task.reset_env)(reset_key, params)
    np.testing.assert_array_equal(observation, expected.ravel())
    over = jnp.asarray(False)
    _, stepped = jax.jit(lambda c: jax.lax.scan(ours, c, wishes))((state, over))
    begun = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), begun, state[1])
    _, bare = jax.jit(lambda c: jax.lax.scan(theirs, c, wishes))(((key, begun), over))
    for mine, gymnaxs in zip(stepped, bare, strict=True):
        np.testing.assert_allclose(mine, gymnaxs, rtol=1e-5, atol=1e-5)


def still(task, horizon, **rules):
    spec = task_spec(task)
    policy = make_policy(
        spec.observation_size, spec.action_low, spec.action_high, output="clip", normalizer=none()
    )
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    evaluate = make_evaluate(task, policy, num_members=3, horizon=horizon, **rules)
    member = alike(params)
    return jax.jit(evaluate)(jax.random.key(0), member, None)


SHORT = [pytest.param(steps, marks=pytest.mark.slow) for steps in (None, 7)]


@pytest.mark.parametrize("horizon", [*SHORT, 230])
def test_the_horizon_may_be_longer_than_the_tasks_own_clock(horizon):
    assert (still("gymnax/Pendulum-v1", horizon).steps == (horizon or 200)).all()


@pytest.mark.slow
def test_what_ends_an_episode_still_ends_it():
    assert (still("gymnax/CartPole-v1", 2000).steps < 20).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", room.names())
def test_every_listed_task_plays(name):
    played = still(f"gymnax/{name}", 5)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()


def test_options_are_the_tasks_parameters():
    assert room.spec("CartPole-v1", {"max_steps_in_episode": 60}).horizon == 60
    with pytest.raises(ValueError, match="gymnax/CartPole-v1 has no option 'gravty'.*gravity"):
        room.spec("CartPole-v1", {"gravty": 1.0})


def test_actions_of_another_kind_are_told(monkeypatch):
    task, _ = gymnax.make("CartPole-v1")
    monkeypatch.setattr(type(task), "action_space", lambda self, params: "a dance")
    with pytest.raises(ValueError, match="must act in a Box or a Discrete space, got a dance"):
        room.spec("CartPole-v1", {})
