"""The MJX room against Gymnasium itself: same states and actions in, same transitions out."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.envs import mjx as room

pytestmark = pytest.mark.simulator

IDS = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}

BATCH = 64

# of the largest error of an observation, per step from equal states: (maximum, median), float32
# against float64. The observed ones are at most half of these. The worst is in joint velocities of
# some 10 rad/s just after a contact; more solver iterations do not lower it.
STEP_TOLERANCE = {"hopper": (2e-5, 2e-6), "walker2d": (3e-4, 2e-5), "halfcheetah": (1e-2, 2e-5)}

ALL = [
    "hopper",
    pytest.param("walker2d", marks=pytest.mark.slow),
    pytest.param("halfcheetah", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def stepper():
    """name -> the jitted, vmapped step: one compilation a task, for all tests of this file."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = jax.jit(jax.vmap(room.make(name, {}).step))
        return made[name]

    return get


def gym(name) -> Any:
    return gymnasium.make(IDS[name]).unwrapped


def state_from(qpos, qvel):
    """The room's state, as a cold start: nothing in it but what Gymnasium's reset sets."""
    qpos, qvel = (jnp.asarray(x, jnp.float32) for x in (qpos, qvel))
    return room.State(qpos, qvel, jnp.zeros_like(qvel), qpos[..., 0])


def gym_step(env, qpos, qvel, action):
    """(observation, reward, terminated, contacts) of a step from a given state."""
    env.set_state(qpos, qvel)
    contacts = env.data.ncon
    observation, reward, terminated, *_ = env.step(action)
    return observation, reward, terminated, contacts


def assert_same_step(step, env, name, states, actions):
    """Every state stepped once by both; returns what Gymnasium said."""
    theirs = [gym_step(env, q, v, a) for (q, v), a in zip(states, actions, strict=True)]
    observation, reward, terminated, contacts = map(np.array, zip(*theirs, strict=True))
    qpos, qvel = map(np.array, zip(*states, strict=True))
    ours = step(state_from(qpos, qvel), np.asarray(actions, np.float32))
    error = np.abs(ours.observation - observation).max(1)
    largest, median = STEP_TOLERANCE[name]
    assert error.max() < largest
    assert np.median(error) < median
    np.testing.assert_allclose(ours.reward, reward, atol=1e-4, rtol=1e-6)
    np.testing.assert_array_equal(ours.terminated, terminated)
    return terminated, contacts


def trajectory(env, seed, *, steps, reset_every):
    """States and actions met on the way; goes on after termination, until the body lies."""
    rng = np.random.default_rng(seed)
    for t in range(steps):
        if t % reset_every == 0:
            env.reset(seed=seed + t)
        # beyond the bounds too: the simulator clips, the control cost does not
        action = rng.uniform(-1.3, 1.3, env.model.nu).astype(np.float32)
        yield (env.data.qpos.copy(), env.data.qvel.copy()), action
        env.step(action)


@pytest.mark.parametrize("name", ALL)
def test_a_step_is_gymnasiums(name, stepper):
    env, other = gym(name), gym(name)
    terminated, contacts = [], []
    met = list(trajectory(env, seed=5, steps=4 * BATCH, reset_every=40))
    for i in range(0, len(met), BATCH):
        states, actions = zip(*met[i : i + BATCH], strict=True)
        over, touching = assert_same_step(stepper(name), other, name, states, actions)
        terminated.extend(over)
        contacts.extend(touching)
    assert 0.2 < np.mean(np.array(contacts) > 0) < 0.95  # both in the air and on the ground
    assert np.max(contacts) >= 2
    if name != "halfcheetah":
        assert 0.1 < np.mean(terminated) < 0.9


def pose(env, rng, *, height, tilt):
    """A pose with the torso given and the limbs bent so that nothing is deep in the floor."""
    low, high = env.model.jnt_range[3:].T
    for _ in range(10_000):
        qpos = np.concatenate([[0.0, height, tilt], rng.uniform(low, high)])
        env.set_state(qpos, np.zeros(env.model.nv))
        if env.data.ncon == 0 or env.data.contact.dist.min() > -0.01:
            return qpos
    raise AssertionError(f"found no pose at height {height}")


BOUNDS = {  # (torso height, tilt, speed), the first of each pair healthy
    "hopper": [
        ((0.72, 0.0, 0.0), (0.68, 0.0, 0.0)),
        ((1.25, 0.19, 0.0), (1.25, 0.21, 0.0)),
        ((1.25, -0.19, 0.0), (1.25, -0.21, 0.0)),
        ((1.25, 0.0, 98.0), (1.25, 0.0, 102.0)),
        ((1.25, 0.0, -98.0), (1.25, 0.0, -102.0)),
    ],
    "walker2d": [
        ((0.83, 0.0, 0.0), (0.77, 0.0, 0.0)),
        ((1.97, 0.0, 0.0), (2.03, 0.0, 0.0)),
        ((1.25, 0.97, 0.0), (1.25, 1.03, 0.0)),
        ((1.25, -0.97, 0.0), (1.25, -1.03, 0.0)),
    ],
}


@pytest.mark.parametrize("name", ALL[:2])
def test_both_sides_of_every_termination_bound(name, stepper):
    env, rng = gym(name), np.random.default_rng(1)
    pairs = [side for pair in BOUNDS[name] for side in pair]
    states = []
    for height, tilt, speed in (pairs * BATCH)[:BATCH]:
        qvel = np.zeros(env.model.nv)
        qvel[0] = speed
        states.append((pose(env, rng, height=height, tilt=tilt), qvel))
    actions = np.zeros((BATCH, env.model.nu), np.float32)
    terminated, _ = assert_same_step(stepper(name), env, name, states, actions)
    expected = (np.arange(BATCH) % len(pairs)) % 2 == 1
    np.testing.assert_array_equal(terminated, expected)


@pytest.mark.parametrize("name", ALL)
def test_healthy_is_gymnasiums_rule_to_the_bound(name):
    env, rng = gym(name), np.random.default_rng(0)
    rest = room.mjx.make_data(env.model)
    for _ in range(300):
        qpos, qvel = env.init_qpos.copy(), env.init_qvel.copy()
        qpos[1] += rng.normal() * 0.7
        qpos[2] += rng.normal() * 0.7 * rng.integers(2)
        i = rng.integers(env.model.nv)
        qvel[i] = rng.choice([0.0, rng.normal() * 100, np.nan])
        env.set_state(qpos, np.nan_to_num(qvel))
        env.data.qvel[:] = qvel
        data = rest.replace(qpos=jnp.asarray(qpos), qvel=jnp.asarray(qvel))
        assert bool(room.TASKS[name].healthy(data)) == getattr(env, "is_healthy", True)


@pytest.mark.parametrize("name", ALL)
def test_a_free_run_parts_from_gymnasium_as_fast_as_float32_does(name, stepper):
    """50 steps without correction, from Gymnasium's resets. The yardstick of chaos is a twin of
    Gymnasium whose state is rounded to float32 once a step; MJX rounds some thousand times."""
    envs, twins = [gym(name) for _ in range(BATCH)], [gym(name) for _ in range(BATCH)]
    rng = np.random.default_rng(2)
    for i in range(BATCH):
        envs[i].reset(seed=i)
        twins[i].reset(seed=i)
    qpos, qvel = (np.array([getattr(env.data, x) for env in envs]) for x in ("qpos", "qvel"))
    state = state_from(qpos, qvel)
    for _ in range(50):
        actions = rng.uniform(-1, 1, (BATCH, envs[0].model.nu)).astype(np.float32)
        for twin in twins:
            twin.data.qpos[:] = twin.data.qpos.astype(np.float32)
            twin.data.qvel[:] = twin.data.qvel.astype(np.float32)
        theirs, rounded = (
            np.array([env.step(a)[0] for env, a in zip(some, actions, strict=True)])
            for some in (envs, twins)
        )
        state, ours, *_ = stepper(name)(state, actions)
        error, chaos = (np.abs(x - theirs).max(1) for x in (ours, rounded))
        assert np.median(error) < STEP_TOLERANCE[name][0] + 50 * np.median(chaos)


@pytest.mark.parametrize("name", room.names())
def test_spec_is_gymnasiums(name):
    env, spec = gym(name), room.spec(name, {})
    assert (spec.observation_size,) == env.observation_space.shape
    np.testing.assert_array_equal(spec.action_low, env.action_space.low)
    np.testing.assert_array_equal(spec.action_high, env.action_space.high)
    assert spec.action_low.dtype == spec.action_high.dtype == np.float32
    assert spec.horizon == gymnasium.spec(IDS[name]).max_episode_steps


@pytest.mark.parametrize("name", room.names())
def test_reset_noise_is_gymnasiums(name):
    """Mean and mean square of every coordinate within 5 SE; no two coordinates share a draw."""
    env, n = gym(name), 4000
    state, observation = jax.jit(jax.vmap(room.make(name, {}).reset))(
        jax.random.split(jax.random.key(0), n)
    )
    noise = np.concatenate([state.qpos - env.init_qpos, state.qvel - env.init_qvel], 1)
    scale = env._reset_noise_scale
    normal = np.zeros(noise.shape[1], bool)
    normal[env.model.nq :] = name == "halfcheetah"

    mean_square = scale**2 * np.where(normal, 1, 1 / 3)
    fourth = scale**4 * np.where(normal, 3, 1 / 5)
    assert np.all(np.abs(noise[:, ~normal]) <= scale * (1 + 1e-4))
    assert np.all(np.abs(noise).max(0)[normal] > 2.5 * scale)
    assert np.all(np.abs(noise.mean(0)) < 5 * np.sqrt(mean_square / n))
    off = np.abs((noise**2).mean(0) - mean_square)
    assert np.all(off < 5 * np.sqrt((fourth - mean_square**2) / n))
    correlation = np.corrcoef(noise.T) - np.eye(noise.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(n)

    env.set_state(np.array(state.qpos[0]), np.array(state.qvel[0]))
    np.testing.assert_allclose(observation[0], env._get_obs(), rtol=1e-6)


def test_reset_feeds_step_feeds_step_with_one_compilation(stepper):
    environment, step = room.make("hopper", {}), stepper("hopper")
    state, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(1), BATCH))
    actions = jnp.zeros((BATCH, 3))
    first = step(state, actions)
    compiled = step._cache_size()
    after = step(first.state, actions)
    assert step._cache_size() == compiled

    def avals(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    assert avals(after.state) == avals(state)
    assert after.reward.dtype == jnp.float32 and after.reward.shape == (BATCH,)
    assert after.terminated.dtype == bool and after.terminated.shape == (BATCH,)


def test_options_reach_the_solver(monkeypatch):
    models = []
    put_model = room.mjx.put_model
    monkeypatch.setattr(
        room.mjx, "put_model", lambda m, **k: models.append(put_model(m, **k)) or models[-1]
    )
    room.make("hopper", {})
    room.make("hopper", {"solver": "cg", "iterations": 5, "ls_iterations": 3})
    chosen = [(m.opt.solver, m.opt.iterations, m.opt.ls_iterations) for m in models]
    newton, cg = room.mjx.SolverType.NEWTON, room.mjx.SolverType.CG
    assert chosen == [(newton, 8, 8), (cg, 5, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iteration": 3}, "MJX tasks have no option 'iteration'; the nearest are iterations"),
        ({"solver": "pgs"}, "solver must be one of newton, cg, got 'pgs'"),
        ({"impl": "cuda"}, "impl must be one of jax, warp, got 'cuda'"),
        ({"iterations": 0}, "iterations must be a positive integer, got 0"),
        ({"ls_iterations": True}, "ls_iterations must be a positive integer, got True"),
        ({"impl": "warp"}, "naconmax, .* goes with impl='warp'"),
        ({"naconmax": 64}, "naconmax, .* goes with impl='warp'"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        room.make("hopper", options)


def test_warp_without_its_package_is_told(monkeypatch):
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install warp-lang"):
        room.make("hopper", {"impl": "warp", "naconmax": 64})
