"""The MJX suite against Gymnasium itself: same states and actions in, same transitions out."""

import itertools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from nesht_jax.envs import mjx as suite
from nesht_jax.envs import mjx_contacts
from nesht_jax.envs.simulator import jax_defaults

pytestmark = pytest.mark.simulator

IDS = {
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "halfcheetah": "HalfCheetah-v5",
    "ant": "Ant-v5",
    "humanoid": "Humanoid-v5",
    "humanoidstandup": "HumanoidStandup-v5",
    "swimmer": "Swimmer-v5",
    "reacher": "Reacher-v5",
    "pusher": "Pusher-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
}

BATCH = 64

# of the largest error of an observation, per step from equal states: (maximum, median), float32
# against float64. The observed ones are at most half of these. The worst is in joint velocities of
# some 10 rad/s just after a contact, and of the ant and the humanoids in contact forces, of up to
# 1 after clipping and some 1000 N; more solver iterations do not lower it. The pusher's: see below.
STEP_TOLERANCE = {
    "hopper": (2e-5, 2e-6),
    "walker2d": (3e-4, 2e-5),
    "halfcheetah": (1e-2, 2e-5),
    "ant": (2e-2, 6e-5),
    "humanoid": (5e-1, 4e-3),
    "humanoidstandup": (3e-1, 6e-3),
    "swimmer": (2e-5, 3e-6),
    "reacher": (5e-6, 5e-7),
    "pusher": (2e-6, 1e-6),
    "inverted_pendulum": (7e-5, 5e-7),
    "inverted_double_pendulum": (5e-5, 2e-6),
}

# the cheapest to compile stands for all among the fast tests
FAST = "inverted_pendulum"
ALL = [FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in IDS if n != FAST)]
WALKERS = [pytest.param(n, marks=pytest.mark.slow) for n in ("hopper", "walker2d", "halfcheetah")]

# without the contact forces, the last 78 features
MOTION_TOLERANCE = {"ant": 5e-3, "humanoid": 1.2e-3, "humanoidstandup": 1e-3}

# of a reward, where it is not 1e-4: those that pay for contact forces or for what they move
REWARD_TOLERANCE = {"ant": 1e-3, "humanoid": 8e-4, "humanoidstandup": 1e-3, "pusher": 5e-4}

# never terminates; meets the ground, where the others meet but limits of their joints; never off it
ENDLESS = {"halfcheetah", "humanoidstandup", "swimmer", "reacher", "pusher"}
TOUCHING = {"hopper", "walker2d", "halfcheetah", "ant", "humanoid", "humanoidstandup"}
GROUNDED = {"pusher", "humanoidstandup"}

HUMANOIDS = ("humanoid", "humanoidstandup")

# of the walk through a task: states a call, states, steps between resets, and steps an action is
# held: the swimmer would never bend to the limits of its joints. A step of the pusher takes a
# second on a CPU, where the search for its capsule-cylinder contacts is slow
PLANS = {
    "hopper": (BATCH, 4 * BATCH, 40, 1),
    "walker2d": (BATCH, 4 * BATCH, 40, 1),
    "halfcheetah": (BATCH, 4 * BATCH, 40, 1),
    "humanoid": (BATCH, 2 * BATCH, BATCH, 1),
    "swimmer": (BATCH, 2 * BATCH, BATCH, 10),
    "pusher": (4, 4, 40, 1),
}


@pytest.fixture(scope="module")
def stepper():
    """name -> the jitted, vmapped step: one compilation for all tests of this file."""
    made = {}

    def get(name):
        if name in HUMANOIDS and name not in made:
            made.update(humanoid_steps())
        if name not in made:
            made[name] = jax.jit(jax.vmap(suite.make(name, {}).simulator.step))
        return made[name]

    return get


def humanoid_steps():
    """Steps of both humanoids by one program, the dearest to compile: it takes the model as an
    argument, and judges every step by the rules of both."""

    @jax.jit
    def steps(simulator, state, action):
        def one(state, action):
            data = suite.simulate(suite.TASKS["humanoid"], simulator, state, action)
            arguments = simulator, state, action, data
            return {name: suite.transition(suite.TASKS[name], *arguments) for name in HUMANOIDS}

        with jax_defaults():
            return jax.vmap(one)(state, action)

    def stepping(name):
        simulator, _ = suite.put(suite.TASKS[name], suite.DEFAULTS)
        simulator = simulator._replace(model=shareable(simulator.model))
        return lambda state, action: steps(simulator, state, action)[name]

    made = {name: stepping(name) for name in HUMANOIDS}
    made["programs"] = steps._cache_size
    return made


def shareable(model):
    """The model without what is static in it and differs between the humanoids: names, poses that
    nobody asks for, and shortcuts where two frames happen to be equal."""
    static = ["key_qpos", "body_sameframe", "geom_sameframe"]
    static += [name for name in vars(model) if name.startswith("name_")]
    blank = {name: np.zeros_like(getattr(model, name)) for name in static}
    return model.replace(names=b"", **blank)


def gym(name) -> Any:
    return gymnasium.make(IDS[name]).unwrapped


def state_from(qpos, qvel, position=None):
    """The state of an episode, as a cold start: nothing in it but what Gymnasium's reset sets."""
    qpos, qvel = (jnp.asarray(x, jnp.float32) for x in (qpos, qvel))
    position = qpos[..., 0] if position is None else jnp.asarray(position, jnp.float32)
    return suite.State(qpos, qvel, jnp.zeros_like(qvel), position)


def gym_step(env, name, state, action):
    """(observation, reward, terminated, constraints, position before) of a step from a state."""
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(*state)
    constraints = env.data.ncon if name in TOUCHING else env.data.nefc
    position = env.data.subtree_com[0, 0] if name == "humanoid" else env.data.qpos[0]
    observation, reward, terminated, *_ = env.step(action)
    return observation, reward, terminated, constraints, position


def assert_same_step(step, env, name, states, actions, tolerance=None):
    """Every state stepped once by both; returns what Gymnasium said."""
    theirs = [gym_step(env, name, *pair) for pair in zip(states, actions, strict=True)]
    observation, reward, terminated, constraints, position = map(
        np.array, zip(*theirs, strict=True)
    )
    qpos, qvel = map(np.array, zip(*states, strict=True))
    ours = step(state_from(qpos, qvel, position), np.asarray(actions, np.float32))
    errors = np.abs(ours.observation - observation)
    error = errors.max(1)
    largest, median = tolerance or STEP_TOLERANCE[name]
    print(f"{name}: maximum {error.max():.1e}, median {np.median(error):.1e}")
    print(f"{name}: reward {np.abs(ours.reward - reward).max():.1e}")
    assert error.max() < largest
    assert np.median(error) < median
    if name in MOTION_TOLERANCE:
        print(f"{name}: motion {errors[:, :-78].max():.1e}")
        assert errors[:, :-78].max() < MOTION_TOLERANCE[name]
    atol = REWARD_TOLERANCE.get(name, 1e-4)
    np.testing.assert_allclose(ours.reward, reward, atol=atol, rtol=1e-6)
    np.testing.assert_array_equal(ours.terminated, terminated)
    return terminated, constraints


def trajectory(env, seed, *, steps, reset_every, hold):
    """States and actions met on the way; goes on after termination, until the body lies."""
    rng = np.random.default_rng(seed)
    for t in range(steps):
        if t % reset_every == 0:
            env.reset(seed=seed + t)
        # beyond the bounds too: the simulator clips, the control cost does not
        if t % hold == 0:
            action = rng.uniform(-1.3, 1.3, env.model.nu) * env.action_space.high
            action = action.astype(np.float32)
        yield (env.data.qpos.copy(), env.data.qvel.copy()), action
        env.step(action)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_step_is_gymnasiums(name, stepper):
    env, other = gym(name), gym(name)
    batch, steps, reset_every, hold = PLANS.get(name, (BATCH, 2 * BATCH, 40, 1))
    terminated, constraints = [], []
    met = list(trajectory(env, seed=5, steps=steps, reset_every=reset_every, hold=hold))
    for i in range(0, len(met), batch):
        states, actions = zip(*met[i : i + batch], strict=True)
        over, held = assert_same_step(stepper(name), other, name, states, actions)
        terminated.extend(over)
        constraints.extend(held)
    # both in the air and on the ground, or both within and at the limits of the joints
    share = np.mean(np.array(constraints) > 0)
    assert name in GROUNDED or 0.03 < share < 0.95, share
    if name in TOUCHING:
        assert np.max(constraints) >= 2
    if name in ENDLESS:
        assert not np.any(terminated)
    else:
        assert 0.03 < np.mean(terminated) < 0.9


@pytest.mark.slow
def test_the_humanoids_share_a_program(stepper):
    state = state_from(*(np.tile(x, (BATCH, 1)) for x in (gym("humanoid").init_qpos, np.zeros(23))))
    for name in HUMANOIDS:
        stepper(name)(state, np.zeros((BATCH, 17), np.float32))
    assert stepper("programs")() == 1


def pushing(env, rng):
    """States in which the fork touches the object: a random arm, the object moved to its tip."""
    low, high = env.model.jnt_range[:7].T
    fork_and_object = {*np.flatnonzero(env.model.geom_bodyid == 9), 18}
    while True:
        qpos, qvel = np.zeros(11), 0.3 * rng.normal(size=11)
        qpos[:7] = rng.uniform(low, high)
        env.set_state(qpos, qvel)
        tip = env.data.body("tips_arm").xpos
        if abs(tip[2] + 0.275) > 0.07:  # not at the height of the object
            continue
        qpos[7:9] = tip[1] + 0.05, tip[0] - 0.45
        qpos[7:9] += rng.uniform(-0.12, 0.12, 2)
        env.set_state(qpos, qvel)
        touching = [set(geom) <= fork_and_object for geom in env.data.contact.geom]
        if any(touching) and env.data.contact.dist.min() > -0.01:
            yield qpos, qvel


@pytest.mark.slow
def test_a_pushed_object_moves_as_gymnasiums(stepper):
    """To MJX's search for the point of contact, which ends after ten steps downhill."""
    env, rng = gym("pusher"), np.random.default_rng(0)
    states = list(itertools.islice(pushing(env, rng), 4))
    actions = rng.uniform(-2, 2, (4, 7)).astype(np.float32)
    assert_same_step(stepper("pusher"), env, "pusher", states, actions, (2e-3, 1e-3))


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


@pytest.mark.parametrize("name", WALKERS[:2])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah", "ant", "humanoid"])
def test_healthy_is_gymnasiums_rule_to_the_bound(name):
    env, rng = gym(name), np.random.default_rng(0)
    rest = suite.mjx.make_data(env.model)
    for _ in range(300):
        qpos, qvel = env.init_qpos.copy(), env.init_qvel.copy()
        qpos[1] += rng.normal() * 0.7
        qpos[2] += rng.normal() * 0.7 * rng.integers(2)
        i = rng.integers(env.model.nv)
        qvel[i] = rng.choice([0.0, rng.normal() * 100, np.nan])
        env.set_state(qpos, np.nan_to_num(qvel))
        env.data.qvel[:] = qvel
        data = rest.replace(qpos=jnp.asarray(qpos), qvel=jnp.asarray(qvel))
        assert bool(suite.TASKS[name].healthy(data)) == getattr(env, "is_healthy", True)


@pytest.mark.parametrize(
    ("name", "low", "high", "included"),
    [("ant", 0.2, 1.0, True), ("humanoid", 1.0, 2.0, False)],
)
def test_the_bounds_themselves(name, low, high, included):
    env = gym(name)
    rest = suite.mjx.make_data(env.model)
    inside = np.float32([np.nextafter(np.float32(low), 9), np.nextafter(np.float32(high), 0)])
    outside = np.float32([np.nextafter(np.float32(low), 0), np.nextafter(np.float32(high), 9)])
    for z, healthy in [
        *((z, True) for z in inside),
        *((z, False) for z in outside),
        *((z, included) for z in (low, high)),
    ]:
        data = rest.replace(qpos=jnp.asarray(env.init_qpos, jnp.float32).at[2].set(z))
        assert bool(suite.TASKS[name].healthy(data)) == healthy


def test_pendulums_end_at_their_bounds():
    def up(name, **fields):
        data = suite.mjx.make_data(gym(name).model)
        return bool(suite.TASKS[name].healthy(data.replace(**fields)))

    for angle, healthy in [(0.199, True), (-0.199, True), (0.201, False), (-0.201, False)]:
        assert up("inverted_pendulum", qpos=jnp.array([0.0, angle])) == healthy
    assert not up("inverted_pendulum", qvel=jnp.array([jnp.nan, 0.0]))
    for height, healthy in [(1.001, True), (1.0, False), (0.999, False)]:
        tip = jnp.array([[0.0, 0.0, height]])
        assert up("inverted_double_pendulum", site_xpos=tip) == healthy


@pytest.mark.parametrize("name", WALKERS)
def test_a_free_run_parts_from_gymnasium_as_fast_as_float32_does(name, stepper):
    """50 steps without correction, from Gymnasium's resets. The yardstick of chaos is a twin of
    Gymnasium whose state is rounded to float32 once a step; MJX rounds some thousand times. The
    error is 3 to 28 times the twin's in the geometric mean, and depends on how XLA fuses."""
    envs, twins = [gym(name) for _ in range(BATCH)], [gym(name) for _ in range(BATCH)]
    rng = np.random.default_rng(2)
    for i in range(BATCH):
        envs[i].reset(seed=i)
        twins[i].reset(seed=i)
    qpos, qvel = (np.array([getattr(env.data, x) for env in envs]) for x in ("qpos", "qvel"))
    state, ratios = state_from(qpos, qvel), []
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
        error, chaos = (np.median(np.abs(x - theirs).max(1)) for x in (ours, rounded))
        assert error < STEP_TOLERANCE[name][0] + 100 * chaos
        ratios.append(error / chaos)
    assert np.exp(np.log(ratios).mean()) < 60


def test_every_task_is_compared():
    assert set(IDS) == set(suite.names())


@pytest.mark.parametrize("name", IDS)
def test_sizes_and_bounds_are_gymnasiums(name):
    env, task = gym(name), suite.make(name, {})
    assert (task.observation_size,) == env.observation_space.shape
    np.testing.assert_array_equal(task.action_low, env.action_space.low)
    np.testing.assert_array_equal(task.action_high, env.action_space.high)
    assert task.action_low.dtype == task.action_high.dtype == np.float32
    assert task.horizon == gymnasium.spec(IDS[name]).max_episode_steps
    assert task.terminates == (name not in ENDLESS)
    assert (task.name, task.discrete, task.image_shape) == (f"mjx/{name}", False, None)


def test_a_task_is_put_on_the_device_once(monkeypatch):
    calls = []
    for function in ("put_model", "make_data"):
        original = getattr(suite.mjx, function)
        monkeypatch.setattr(
            suite.mjx,
            function,
            lambda *args, f=function, o=original, **kwargs: calls.append(f) or o(*args, **kwargs),
        )
    suite.make(FAST, {})
    assert calls == ["put_model", "make_data"]


def test_mujoco_logs_nothing_to_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    suite.make("halfcheetah", {})  # its model has an attribute that MuJoCo calls deprecated
    assert not list(tmp_path.iterdir())


def test_everything_is_float32_whatever_jax_is_set_to():
    """Traced, not run."""
    with jax.enable_x64(True):
        simulator = suite.make(FAST, {}).simulator
        reset = jax.eval_shape(simulator.reset, jax.random.key(0))
        after = jax.eval_shape(simulator.step, reset[0], jnp.zeros(1))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((reset, after._replace(terminated=None)))}
    assert dtypes == {np.dtype(np.float32)}


def moments(x):
    """First four moments about 0 of every column, and the variances of these means."""
    powers = np.stack([x**k for k in (1, 2, 3, 4)])
    return powers.mean(1), powers.var(1) / len(x)


@pytest.mark.parametrize("name", IDS)
def test_reset_noise_is_gymnasiums(name):
    """Against as many resets of Gymnasium: four moments of every coordinate and all correlations
    within 5 SE, and the same coordinates never move."""
    env, task, n = gym(name), suite.TASKS[name], 2000
    rest = np.concatenate([env.model.qpos0, np.zeros(env.model.nv)])
    qpos, qvel = (jnp.asarray(x, jnp.float32) for x in np.split(rest, [env.model.nq]))
    draw = jax.jit(jax.vmap(lambda key: task.reset(key, qpos, qvel)))
    ours = np.concatenate(draw(jax.random.split(jax.random.key(0), n)), 1) - rest
    env.reset(seed=0)
    theirs = np.zeros_like(ours)
    for i in range(n):
        env.reset()
        theirs[i] = np.concatenate([env.data.qpos, env.data.qvel]) - rest

    moved = theirs.std(0) > 0
    np.testing.assert_allclose(ours[:, ~moved], theirs[:, ~moved], atol=1e-6)
    ours, theirs = ours[:, moved], theirs[:, moved]
    (mean, variance), (their_mean, their_variance) = moments(ours), moments(theirs)
    assert np.all(np.abs(mean - their_mean) < 5 * np.sqrt(variance + their_variance))
    apart = np.corrcoef(ours.T) - np.corrcoef(theirs.T)
    assert np.abs(apart).max() < 5 * np.sqrt(2 / n)
    reach = np.abs(theirs).max(0)
    bounded = np.mean(theirs**4, 0) < 2.6 * np.mean(theirs**2, 0) ** 2  # 3 if normal, 1.8 if flat
    assert np.all(np.abs(np.abs(ours).max(0) - reach)[bounded] < 0.1 * reach[bounded])


def test_reset_places_objects_where_gymnasium_does():
    keys = jax.random.split(jax.random.key(0), 4000)
    for name, low, high in [("reacher", 0.0, 0.2), ("pusher", 0.17, 0.37)]:
        env = gym(name)
        rest = jnp.asarray(env.model.qpos0, jnp.float32), jnp.zeros(env.model.nv)
        qpos, qvel = jax.jit(jax.vmap(suite.TASKS[name].reset, (0, None, None)))(keys, *rest)
        place = qpos[:, -2:] if name == "reacher" else qpos[:, -4:-2]
        distance = np.linalg.norm(place, axis=1)
        assert low <= distance.min() < low + 0.02 and high - 0.02 < distance.max() < high
        still = qvel[:, -2:] if name == "reacher" else qvel[:, -4:]
        assert not np.any(still)


@pytest.mark.parametrize("name", [*WALKERS[:2], pytest.param("ant", marks=pytest.mark.slow)])
def test_the_first_observation_is_gymnasiums(name):
    env = gym(name)
    state, observation = jax.jit(suite.make(name, {}).simulator.reset)(jax.random.key(0))
    env.set_state(np.array(state.qpos, float), np.array(state.qvel, float))
    np.testing.assert_allclose(observation, env._get_obs(), rtol=1e-6)


@pytest.mark.parametrize("name", IDS)
def test_observations_are_gymnasiums_of_the_same_data(name):
    env = gym(name)
    env.reset(seed=0)
    data = suite.mjx.put_data(env.model, env.data)
    seen = jnp.concatenate([part(data) for part in suite.TASKS[name].observe])
    np.testing.assert_allclose(seen, env._get_obs(), rtol=1e-6)


@pytest.mark.slow
def test_reset_feeds_step_feeds_step_with_one_compilation(stepper):
    task, step = suite.make(FAST, {}), stepper(FAST)
    state, _ = jax.jit(jax.vmap(task.simulator.reset))(jax.random.split(jax.random.key(1), BATCH))
    actions = jnp.zeros((BATCH, task.num_actions))
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
    put_model = suite.mjx.put_model
    monkeypatch.setattr(
        suite.mjx, "put_model", lambda m, **k: models.append(put_model(m, **k)) or models[-1]
    )
    suite.make("hopper", {})
    suite.make("hopper", {"solver": "cg", "iterations": 5, "ls_iterations": 3})
    chosen = [(m.opt.solver, m.opt.iterations, m.opt.ls_iterations) for m in models]
    newton, cg = suite.mjx.SolverType.NEWTON, suite.mjx.SolverType.CG
    assert chosen == [(newton, 8, 8), (cg, 5, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iteration": 3}, "mjx/hopper has no option 'iteration'; did you mean iterations"),
        ({"time_limit": 3}, "mjx/hopper has no option 'time_limit': set horizon"),
        ({"solver": ["cg"]}, "mjx/hopper: solver must be one of newton, cg, got \\['cg'\\]"),
        ({"iterations": None}, "iterations must be a positive integer, got None"),
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
        suite.make("hopper", options)


def test_contact_forces_need_jax(monkeypatch):
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="ant observes contact forces, .* got impl='warp'"):
        suite.make("ant", {"impl": "warp", "naconmax": 64})


def test_capsules_meet_a_plane_in_the_frames_of_c():
    """Lying, slanted, and within 30 degrees of upright; both ends near the plane are contacts."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody>
        <geom type="plane" size="9 9 1" margin="9"/>
        <body><freejoint/><geom type="capsule" size=".1 .2"/></body>
        <body><freejoint/><geom type="capsule" size=".1 .2"/></body>
    </worldbody></mujoco>""")
    data, put = mujoco.MjData(model), suite.mjx.put_model(model)

    @jax.jit
    def frames(qpos):
        turned = suite.mjx.kinematics(put, suite.mjx.make_data(model).replace(qpos=qpos))
        with mjx_contacts.c_mujoco_contacts():
            contact = suite.mjx.collision(put, turned)._impl.contact
        return contact.frame, contact.geom

    for degrees in (0, 5, 29, 31, 90):
        half = np.radians(degrees) / 2
        turn = np.array([np.cos(half), 0.6 * np.sin(half), 0.8 * np.sin(half), 0])
        back = turn * [1, -1, 1, 1]
        data.qpos[:] = np.concatenate([[0, 0, 0.5], turn, [3, 0, 0.5], back])
        mujoco.mj_forward(model, data)
        frame, geom = frames(jnp.asarray(data.qpos, jnp.float32))
        floor = geom[:, 0] == 0
        np.testing.assert_array_equal(geom[floor][:, 1], data.contact.geom[:, 1])
        np.testing.assert_allclose(frame[floor].reshape(-1, 9), data.contact.frame, atol=1e-6)


def test_mjx_is_left_as_it_was():
    table = mjx_contacts.collision_driver._COLLISION_FUNC
    before = dict(table)
    with pytest.raises(KeyError), mjx_contacts.c_mujoco_contacts():
        assert table != before
        raise KeyError
    assert table == before


def test_warp_without_its_package_is_told(monkeypatch):
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install warp-lang"):
        suite.make("hopper", {"impl": "warp", "naconmax": 64})
