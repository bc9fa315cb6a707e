"""The gymnax suite against gymnax stepped directly."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.envs.tasks import make_evaluate, make_task
from nesht_jax.types import Policy, replicate

gymnax = pytest.importorskip("gymnax", reason="pip install 'nesht-jax[gymnax]'")
suite = importlib.import_module("nesht_jax.envs.gymnax")

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


IMAGES = {  # channels, height, width
    "Asterix-MinAtar": (4, 10, 10),
    "Breakout-MinAtar": (4, 10, 10),
    "Freeway-MinAtar": (7, 10, 10),
    "Pong-misc": (3, 30, 40),
    "SpaceInvaders-MinAtar": (6, 10, 10),
}


@pytest.mark.parametrize("name", SOME)
def test_sizes(name):
    task = suite.make(name, {})
    assert (task.observation_size, task.num_actions, task.horizon) == SOME[name]
    assert task.discrete == (name in SCORES)
    assert (task.action_high == np.inf).all() == (name in SCORES)
    np.testing.assert_array_equal(task.action_low, -task.action_high)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in SOME else pytest.mark.slow) for n in suite.names()],
)
def test_types_of_every_task(name):
    """Traced, not run: a step's state has the structure, shapes and types of the reset's."""
    task = suite.make(name, {})
    assert task.image_shape == IMAGES.get(name)
    state, observation = jax.eval_shape(task.simulator.reset, jax.random.key(0))
    after = jax.eval_shape(task.simulator.step, state, jnp.zeros(task.num_actions))
    assert jax.tree.structure(after.state) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after.state), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert after.observation.shape == observation.shape == (task.observation_size,)
    assert after.observation.dtype == observation.dtype == jnp.float32
    assert (after.reward.shape, after.reward.dtype) == ((), jnp.float32)
    assert (after.terminated.shape, after.terminated.dtype) == ((), jnp.bool)


def test_names_need_no_network():
    assert "MNISTBandit-bsuite" not in suite.names()
    assert {"CartPole-v1", "Breakout-MinAtar", "Catch-bsuite"} <= set(suite.names())


def flat(observation):
    """Images channels first."""
    image = observation.ndim == 3
    return (observation.transpose(2, 0, 1) if image else observation).ravel()


@pytest.mark.parametrize(
    "name",
    ["CartPole-v1", *(pytest.param(n, marks=pytest.mark.slow) for n in SOME if n[0] in "BP")],
)
def test_steps_are_gymnaxs_and_never_reset(name):
    """Beyond the end as well, where gymnax's own ``step`` would begin anew."""
    task, params = gymnax.make(name)
    made = suite.make(name, {})
    environment = made.simulator
    bound = jnp.minimum(made.action_high, 2.0)
    wishes = jax.random.uniform(jax.random.key(1), (60, bound.size), minval=-bound, maxval=bound)

    def theirs(carry, wish):
        (key, state), over = carry
        key, step_key = jax.random.split(key)
        action = jnp.argmax(wish) if name in SCORES else wish
        observation, state, reward, done, _ = task.step_env(step_key, state, action, params)
        state = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), state, carry[0][1])
        return ((key, state), over | done), (flat(observation), reward, over | done)

    def ours(carry, wish):
        state, over = carry
        after = environment.step(state, wish)
        over = over | after.terminated
        return (after.state, over), (after.observation, after.reward, over)

    state, observation = jax.jit(environment.reset)(jax.random.key(0))
    key, reset_key = jax.random.split(jax.random.key(0))
    expected, begun = jax.jit(task.reset_env)(reset_key, params)
    np.testing.assert_array_equal(observation, flat(expected))
    over = jnp.asarray(False)
    _, stepped = jax.jit(lambda c: jax.lax.scan(ours, c, wishes))((state, over))
    begun = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), begun, state[1])
    _, bare = jax.jit(lambda c: jax.lax.scan(theirs, c, wishes))(((key, begun), over))
    for mine, gymnaxs in zip(stepped, bare, strict=True):
        np.testing.assert_allclose(mine, gymnaxs, rtol=1e-5, atol=1e-5)


def still(name, horizon):
    """Evaluation of a policy that does nothing."""
    task = make_task(name, horizon=horizon)
    zeros = jnp.zeros(task.num_actions)
    policy = Policy(lambda key: zeros, lambda params, moments, x: params)
    evaluate = jax.jit(make_evaluate(task, policy, num_members=3))
    return evaluate(jax.random.key(0), replicate(zeros), None)


SHORT = [pytest.param(steps, marks=pytest.mark.slow) for steps in (None, 7)]


@pytest.mark.parametrize("horizon", [*SHORT, 230])
def test_the_horizon_may_be_longer_than_the_tasks_own_clock(horizon):
    assert (still("gymnax/Pendulum-v1", horizon).steps == (horizon or 200)).all()


def test_what_ends_an_episode_still_ends_it():
    assert (still("gymnax/CartPole-v1", 2000).steps < 20).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", suite.names())
def test_every_listed_task_plays(name):
    played = still(f"gymnax/{name}", 5)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()


def test_a_convolution_sees_the_pixels_where_they_are():
    """Of SpaceInvaders: over the image that the task tells of, and over gymnax's own."""
    name = "SpaceInvaders-MinAtar"
    task, (bare, params) = suite.make(name, {}), gymnax.make(name)
    _, observation = jax.jit(task.simulator.reset)(jax.random.key(0))
    # the reset of the suite is gymnax's, by the second half of the key
    theirs, _ = jax.jit(bare.reset_env)(jax.random.split(jax.random.key(0))[1], params)
    image = observation.reshape(task.image_shape)
    np.testing.assert_array_equal(image, theirs.transpose(2, 0, 1))
    filters = np.random.default_rng(0).normal(size=(2, task.image_shape[0], 3, 3))
    seen = jax.lax.conv(image[None], jnp.asarray(filters, jnp.float32), (1, 1), "VALID")[0]
    rows, columns = np.ogrid[:8, :8]
    windows = [
        np.asarray(theirs)[rows + y, columns + x] @ filters[:, :, y, x].T
        for y, x in np.ndindex(3, 3)
    ]
    np.testing.assert_allclose(seen, sum(windows).transpose(2, 0, 1), atol=1e-5)
    assert len(np.unique(seen)) > 10


def test_options_are_the_tasks_parameters():
    assert suite.make("CartPole-v1", {"max_steps_in_episode": 60}).horizon == 60


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("CartPole-v1", {"gravity": 10}, 10.0),
        ("CartPole-v1", {"gravity": "1e-3"}, 1e-3),
        ("Asterix-MinAtar", {"ramping": False}, False),
        ("Asterix-MinAtar", {"shot_cool_down": 3.0}, 3),
        ("Acrobot-v1", {"available_torque": [-2, 0, 2]}, np.float32([-2, 0, 2])),
    ],
)
def test_options_take_the_type_of_the_field(name, option, expected):
    (field,) = option
    _, params = gymnax.make(name)
    made = getattr(suite._with_options(name, params, option), field)
    assert type(made) is type(getattr(params, field))
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v1", {"gravty": 1.0}, "gymnax/CartPole-v1 has no option 'gravty'; .*gravity"),
        ("CartPole-v1", {"max_episode_steps": 5}, "no option 'max_episode_steps': set horizon"),
        ("CartPole-v1", {"gravity": "abc"}, "CartPole-v1: gravity must be like .*9.8, got 'abc'"),
        ("CartPole-v1", {"gravity": [1, 2]}, "gravity must be like"),
        ("CartPole-v1", {"gravity": None}, "gravity must be like"),
        ("CartPole-v1", {"gravity": {"x": 1}}, "gravity must be like"),
        ("CartPole-v1", {"gravity": True}, "gravity must be like"),
        ("Asterix-MinAtar", {"ramping": 1}, "ramping must be like its default True, got 1"),
        ("Asterix-MinAtar", {"shot_cool_down": 2.5}, "shot_cool_down must be like"),
        ("Acrobot-v1", {"available_torque": 2}, "available_torque must be like"),
    ],
)
def test_wrong_options_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        suite.make(name, options)


def test_actions_of_another_kind_are_told(monkeypatch):
    task, _ = gymnax.make("CartPole-v1")
    monkeypatch.setattr(type(task), "action_space", lambda self, params: "a dance")
    with pytest.raises(ValueError, match="must act in a Box or a Discrete space, got a dance"):
        suite.make("CartPole-v1", {})
