"""The envpool suite against plain loops over the same pool, and its small tasks against
Gymnasium's."""

import importlib
import os
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from nesht_jax.envs import tasks
from nesht_jax.envs.suite import VectorEnv
from nesht_jax.envs.tasks import (
    make_evaluate,
    make_task,
    make_vector,
    reference_observations,
    task_names,
)
from nesht_jax.policy.normalize import by_running_moments, unnormalized
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Moments, Population, replicate

envpool = pytest.importorskip("envpool", reason="envpool has no wheel for this platform")
registry = importlib.import_module("envpool.registration").registry
suite = importlib.import_module("nesht_jax.envs.envpool")

KEY = jax.random.key(0)
HOPPER = "envpool/Hopper-v5"
MEMBERS = 12


def of_modules(*modules):
    """Names of the tasks that these modules of envpool brought."""
    names = [name.partition("/")[2] for name in task_names("envpool")]
    return [name for name in names if registry.specs[name][0].removeprefix("envpool.") in modules]


SMALL = of_modules("classic_control", "box2d")
PLAYED = ["Hopper-v5", "CartPole-v1", "LunarLander-v3", "BipedalWalker-v3"]
"""Tasks of each kind: of a LunarLander, steps draw as well."""


def hopper(*, normalize=None, **rules):
    """The task and a linear policy."""
    task = make_task(HOPPER, **rules)
    return task, make_policy(task, normalize=normalize or unnormalized(), output="tanh")


def population_of(policy, scale=1.0):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), MEMBERS))
    stacked = jax.tree.map(lambda x: scale * x, stacked)
    return stacked, Population(Partial(lambda x, i: jax.tree.map(lambda x: x[i], x), stacked))


def same(policy):
    return replicate(policy.init(KEY))


def plain_returns(seeds, stacked, *, resets):
    """The obvious loop: every environment alone, numpy policy, nothing from the suite."""
    kernel, bias = (np.asarray(stacked["layer0"][name]) for name in ("kernel", "bias"))
    totals, lengths = [], []
    for i, seed in enumerate(seeds):
        pool = envpool.make("Hopper-v5", env_type="gymnasium", num_envs=1, seed=[seed])
        for _ in range(resets):
            observation, _ = pool.reset()
        total, length, over = 0.0, 0, False
        while not over:
            seen = observation[0].astype(np.float32)
            action = np.tanh(seen @ kernel[i] + bias[i]).astype(np.float64)
            observation, reward, terminated, truncated, _ = pool.step(action[None])
            total, length = total + float(reward[0]), length + 1
            over = bool(terminated[0] | truncated[0])
        totals.append(total)
        lengths.append(length)
    return np.array(totals), np.array(lengths)


def pool_seeds(seed, count):
    return (np.random.SeedSequence(seed).generate_state(count) >> 1).tolist()


@pytest.mark.slow
def test_equals_one_environment_at_a_time():
    """Also the proof against the float64 trap: bare float64 pools say the same."""
    assert not jax.config.jax_enable_x64
    task, policy = hopper()
    stacked, population = population_of(policy)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS, seed=5)
    for call in (1, 2):
        played = evaluate(KEY, population, None)
        returns, lengths = plain_returns(pool_seeds(5, MEMBERS), stacked, resets=call)
        np.testing.assert_array_equal(played.steps, lengths)
        np.testing.assert_allclose(played.fitness, returns, rtol=2e-3)
        assert int(played.simulated_steps) == lengths.sum()
    evaluate.close()


def test_a_vector_equals_plain_environments_step_by_step():
    """Any choice of environments at a time, by actions that leave the bounds."""
    task = make_task(HOPPER, horizon=9)
    vector = make_vector(task, num_envs=3, seed=11)
    assert isinstance(vector, VectorEnv) and vector.num_envs == 3
    plain = [
        envpool.make("Hopper-v5", env_type="gymnasium", num_envs=1, seed=[s], max_episode_steps=9)
        for s in pool_seeds(11, 3)
    ]
    first = np.concatenate([pool.reset()[0] for pool in plain])
    np.testing.assert_array_equal(vector.reset(np.arange(3)), first.astype(np.float32))
    generator, ended = np.random.default_rng(0), 0
    for _ in range(60):
        ids = np.flatnonzero(generator.integers(0, 2, 3))
        if not ids.size:
            continue
        said = generator.normal(0, 2, (ids.size, 3)).astype(np.float32)
        step = vector.step(said, ids)
        assert step.observation.dtype == np.float32
        for row, i in enumerate(ids):
            action = np.clip(said[row : row + 1], -1, 1).astype(np.float64)
            observation, reward, terminated, truncated, _ = plain[i].step(action)
            expected = observation[0].astype(np.float32)
            np.testing.assert_array_equal(step.observation[row], expected)
            told = (step.reward[row], step.terminated[row], step.truncated[row])
            assert told == (reward[0], terminated[0], truncated[0])
        over = ids[step.terminated | step.truncated]
        ended += over.size
        if over.size:
            first = np.concatenate([plain[i].reset()[0] for i in over])
            np.testing.assert_array_equal(vector.reset(over), first.astype(np.float32))
    assert ended > 5
    vector.close()


# ------------------------------------------------------------------------- against Gymnasium


STATES = {
    "Acrobot-v1": lambda o: [np.arctan2(o[1], o[0]), np.arctan2(o[3], o[2]), o[4], o[5]],
    "CartPole-v1": lambda o: o,
    "MountainCar-v0": lambda o: o,
    "MountainCarContinuous-v0": lambda o: o,
    "Pendulum-v1": lambda o: [np.arctan2(o[1], o[0]), o[2]],
}
"""State of Gymnasium's simulator, from what a task shows."""

PUSHED = {
    "Acrobot-v1": (4, -1),
    "CartPole-v1": (3, 1),
    "MountainCar-v0": (1, 1),
    "MountainCarContinuous-v0": (1, 1),
    "Pendulum-v1": (2, -1),
}
"""Speed that actions follow, and the sign by which they reach the goal, balance or brake."""


def set_state(env, name, seen):
    env.unwrapped.state = np.array(STATES[name](seen.astype(np.float64)))


@pytest.mark.parametrize("name", STATES)
def test_classic_control_is_gymnasiums(name):
    """In each step of whole episodes the same state and action lead to the same."""
    horizon, ids = 400, np.zeros(1, int)
    task = make_task(f"envpool/{name}", horizon=horizon)
    vector = make_vector(task, num_envs=1, seed=2)
    env = gymnasium.make(name, max_episode_steps=horizon)
    generator, (speed, sign), over, ends = np.random.default_rng(0), PUSHED[name], True, []
    ways = sign * (np.linspace(-1, 1, task.num_actions) if task.discrete else task.action_high)
    while len(ends) < 2:
        if over:
            seen, _ = vector.reset(ids)[0], env.reset()
        set_state(env, name, seen)
        said = np.float32(np.sign(seen[speed]) * ways + generator.normal(size=task.num_actions))
        step = vector.step(said[None], ids)
        action = said.argmax() if task.discrete else said.clip(task.action_low, task.action_high)
        expected, reward, terminated, truncated, _ = env.step(action)
        seen = step.observation[0]
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(step.reward[0], reward, rtol=1e-5)
        assert (step.terminated[0], step.truncated[0]) == (terminated, truncated)
        over = terminated or truncated
        ends += [terminated] if over else []
    assert any(ends) == (name != "Pendulum-v1")  # it has no goal
    vector.close()


def test_a_pendulum_at_its_speed_limit_turns_further_than_gymnasiums():
    """envpool limits the speed after the turn; everything else is the same."""
    name, ids, seconds, limit, above = "Pendulum-v1", np.zeros(1, int), 0.05, 8.0, 0
    vector, env = make_vector(make_task(f"envpool/{name}"), num_envs=1), gymnasium.make(name)
    seen, _ = vector.reset(ids)[0], env.reset()
    for _ in range(150):
        set_state(env, name, seen)
        angle, speed = env.unwrapped.state
        action = np.float32([2 if speed > 0 else -2])
        step, (_, reward, *_) = vector.step(action[None], ids), env.step(action)
        unlimited = speed + seconds * (15 * np.sin(angle) + 3 * float(action[0]))
        excess = unlimited - np.clip(unlimited, -limit, limit)
        above += abs(excess) > 1e-4
        angle, speed = env.unwrapped.state + np.array([seconds * excess, 0])
        seen = step.observation[0]
        np.testing.assert_allclose(seen, [np.cos(angle), np.sin(angle), speed], atol=1e-5)
        np.testing.assert_allclose(step.reward[0], reward, rtol=1e-5)
    assert 20 < above < 130
    vector.close()


@pytest.mark.parametrize("name", STATES)
def test_classic_control_begins_as_gymnasiums_does(name):
    count = 500
    vector, env = make_vector(make_task(f"envpool/{name}"), num_envs=count), gymnasium.make(name)
    begun = vector.reset(np.arange(count))
    expected = np.array([env.reset(seed=seed)[0] for seed in range(count)])
    for ours, theirs in zip(begun.T, expected.T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    vector.close()


@pytest.mark.parametrize("name", SMALL)
def test_small_tasks_have_the_limits_of_gymnasiums(name):
    assert make_task(f"envpool/{name}").horizon == gymnasium.spec(name).max_episode_steps


@pytest.mark.parametrize("name", STATES)
def test_gymnasium_has_classic_control_of_the_same_sizes(name, monkeypatch):
    """It plays in place of an envpool that is not installed."""
    ours = make_task(f"envpool/{name}")
    monkeypatch.setattr(tasks.catalog, "installed", lambda suite: suite != "envpool")
    with pytest.warns(UserWarning, match=f"gymnasium/{name} plays instead of envpool/{name}"):
        theirs = make_task(f"envpool/{name}")
    assert theirs.name == f"gymnasium/{name}" and theirs.discrete == ours.discrete
    assert theirs.observation_size == ours.observation_size
    np.testing.assert_array_equal(theirs.action_low, ours.action_low)
    np.testing.assert_array_equal(theirs.action_high, ours.action_high)


# ------------------------------------------------------------------------------------------


def test_an_action_outside_the_bounds_is_one_on_them():
    task = make_task("envpool/Humanoid-v5", horizon=3)
    outcomes = []
    for said in (0.4, 7.0):
        vector = make_vector(task, num_envs=1)
        vector.reset(np.arange(1))
        outcomes.append(vector.step(np.full((1, 17), said, np.float32), np.arange(1)))
    np.testing.assert_allclose(outcomes[0].reward, outcomes[1].reward, rtol=1e-6)
    np.testing.assert_allclose(outcomes[0].observation, outcomes[1].observation, atol=1e-4)


class Broken(suite.EnvpoolVector):
    """Every second environment of a pool shows or pays something else in its third step."""

    shown, paid = None, None

    def begin(self, ids):
        self.done = np.zeros(self.num_envs, int)
        return super().begin(ids)

    def send(self, actions, ids):
        assert np.isfinite(actions).all()
        self.sent = ids
        super().send(actions, ids)

    def recv(self):
        shown, reward, *ended = super().recv()
        self.done[self.sent] += 1
        bad = (self.done[self.sent] == 3) & (self.sent % 2 == 1)
        shown, reward = np.array(shown), np.array(reward)
        if self.shown is not None:
            shown[bad, 1] = self.shown
        if self.paid is not None:
            reward[bad] = self.paid
        return shown, reward, *ended


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "number"),
    [("shown", np.nan), ("shown", -np.inf), ("shown", 1e300), ("paid", np.nan), ("paid", np.inf)],
)
def test_a_number_that_is_not_finite_costs_its_own_episode(monkeypatch, where, number):
    """It ends there, its bad row enters no moments, and the others do not notice."""
    task, policy = hopper(normalize=by_running_moments(), horizon=20)
    population, empty = population_of(policy)[1], Moments.empty(11)
    plain = make_evaluate(task, policy, num_members=MEMBERS)(KEY, population, empty)
    monkeypatch.setattr(suite, "EnvpoolVector", Broken)
    monkeypatch.setattr(Broken, where, number)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS)
    played = evaluate(KEY, population, empty)
    fitness, steps = np.asarray(played.fitness), np.asarray(played.steps)
    failed = np.arange(MEMBERS) % 2 == 1  # halves of six
    np.testing.assert_array_equal(np.isnan(fitness), failed)
    np.testing.assert_array_equal(steps, np.where(failed, 3, plain.steps))
    np.testing.assert_allclose(fitness[~failed], plain.fitness[~failed], rtol=1e-5)
    assert int(played.observed.number) == steps.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(played.observed))
    again = make_evaluate(task, policy, num_members=MEMBERS)  # a call later, by ``seek``
    later = evaluate(jax.random.key(1), population, empty)
    again.seek(1)
    jax.tree.map(np.testing.assert_array_equal, later, again(jax.random.key(1), population, empty))


def test_all_episodes_may_fail_at_their_first_action():
    task, policy = hopper(normalize=by_running_moments())
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), policy.init(KEY))
    played = make_evaluate(task, policy, num_members=3)(KEY, replicate(params), Moments.empty(11))
    assert np.isnan(np.asarray(played.fitness)).all()
    assert not np.asarray(played.steps).any() and not int(played.simulated_steps)
    assert int(played.observed.number) == 0


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_large_population_plays_in_parts(monkeypatch, parts):
    task, policy = hopper(normalize=by_running_moments())
    stacked, population = population_of(policy)
    whole, cut = (make_evaluate(task, policy, num_members=MEMBERS, seed=5) for _ in range(2))
    moments = Moments.empty(11)
    made, original = [], cut._draw

    def counted(population, indices):
        made.append(len(indices))
        return original(population, indices)

    counted.eval_shape = original.eval_shape
    monkeypatch.setattr(cut, "_draw", counted)
    d = sum(leaf[0].size for leaf in jax.tree.leaves(stacked))
    for call in (1, 2):
        expected = whole(jax.random.key(call), population, moments)
        with monkeypatch.context() as patch:
            patch.setattr(suite.episode_queue, "STORED_ENTRIES", MEMBERS * d // parts)
            made.clear()
            played = cut(jax.random.key(call), population, moments)
        assert max(made) * 2 * d <= MEMBERS * d // parts and sum(made) == MEMBERS
        np.testing.assert_array_equal(played.steps, expected.steps)
        np.testing.assert_allclose(played.fitness, expected.fitness, rtol=1e-5)
        np.testing.assert_allclose(played.observed.mean, expected.observed.mean, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYED)
def test_seek_is_the_call_that_would_have_been(name):
    task = make_task(f"envpool/{name}", distractors=2, horizon=150)
    policy = make_policy(task)
    _, population = population_of(policy)
    through, jumped, other = (
        make_evaluate(task, policy, num_members=MEMBERS, seed=seed) for seed in (1, 1, 2)
    )
    keys = jax.random.split(KEY, 4)
    results = [through(key, population, None) for key in keys]
    assert (results[0].fitness != other(keys[0], population, None).fitness).any()
    for call in (3, 0, 2):
        jumped.seek(call)
        again = jumped(keys[call], population, None)
        np.testing.assert_array_equal(results[call].fitness, again.fitness)
        np.testing.assert_array_equal(results[call].steps, again.steps)


def test_a_pair_shares_its_resets_only_if_asked():
    """With equal weights and no distractors a pair that shares its reset has one return."""
    task, policy = hopper()
    for shared in (True, False):
        evaluate = make_evaluate(task, policy, num_members=8, common_random_numbers=shared)
        pairs = np.asarray(evaluate(KEY, same(policy), None).fitness).reshape(-1, 2)
        assert ((pairs[:, 0] == pairs[:, 1]) == shared).all()
        assert len(np.unique(pairs[:, 0])) == len(pairs)


def test_episodes_of_a_member_are_averaged_and_counted():
    task, policy = hopper()
    one = make_evaluate(task, policy, num_members=6, seed=9)(KEY, same(policy), None)
    pairs = make_evaluate(task, policy, num_members=3, episodes_per_member=2, seed=9)
    two = pairs(KEY, same(policy), None)
    np.testing.assert_allclose(two.fitness, one.fitness.reshape(3, 2).mean(1), rtol=1e-6)
    np.testing.assert_array_equal(two.steps, one.steps.reshape(3, 2).sum(1))


def test_horizon_cuts():
    task, policy = hopper(horizon=7)
    _, population = population_of(policy, scale=0.0)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS)
    assert (evaluate(KEY, population, None).steps == 7).all()


def test_num_envs_are_refused():
    task, policy = hopper()
    with pytest.raises(ValueError, match="got 4 for envpool/Hopper-v5.*leave it out"):
        make_evaluate(task, policy, num_members=2, num_envs=4)


def test_reference_observations_are_random_play_with_distractors():
    task = make_task(HOPPER, distractors=3)
    made, again = (reference_observations(task, number=60, seed=3) for _ in range(2))
    np.testing.assert_array_equal(made, again)
    assert made.shape == (60, 44) and made.dtype == np.float32
    pool = envpool.make("Hopper-v5", env_type="gymnasium", num_envs=1, seed=3)
    np.testing.assert_array_equal(made[0, :11], pool.reset()[0][0].astype(np.float32))
    assert len(np.unique(made[:, 0])) == 60  # episodes that end are followed by others
    assert abs(made[:, 11:].std() - 1) < 0.1


def test_moments_count_living_observations_only():
    """Distractors are N(0, 1) in them, and the count is the number of useful steps."""
    tolerance = 5
    task, policy = hopper(normalize=by_running_moments(), distractors=3)
    _, population = population_of(policy)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS)
    played = evaluate(jax.random.key(2), population, Moments.empty(task.num_features))
    count = int(played.steps.sum())
    assert int(played.observed.number) == count
    mean = np.asarray(played.observed.mean)[task.observation_size :]
    variance = np.asarray(played.observed.deviation)[task.observation_size :] / count
    assert np.abs(mean).max() < tolerance / np.sqrt(count)
    assert np.abs(variance - 1).max() < tolerance * np.sqrt(2 / count)


def test_distractors_make_a_difference_and_depend_on_the_key():
    task, policy = hopper(distractors=2)
    _, population = population_of(policy)

    def play(key):
        evaluate = make_evaluate(task, policy, num_members=MEMBERS)
        return evaluate(jax.random.key(key), population, None)

    np.testing.assert_array_equal(play(0).fitness, play(0).fitness)
    assert (play(0).fitness != play(1).fitness).any()


STANDARD_ERRORS = 4


@pytest.fixture(scope="module")
def features():
    """Distractors that an idle policy sees, all episodes alive: [steps, members, features]."""
    seen = []

    def watch(policy, task, action_noise, scale):
        def act(assemble, moments, drawn, batch, action_normals, observed, counted):
            assert counted.all()
            seen.append(batch[:, task.observation_size :].copy())
            return np.zeros((len(batch), 3), np.float32), observed

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "batched_act", watch)
        task, policy = hopper(distractors=4, horizon=40)
        evaluate = make_evaluate(task, policy, num_members=40)
        evaluate(jax.random.key(5), same(policy), None)
    return np.array([np.concatenate(halves) for halves in zip(seen[::2], seen[1::2], strict=True)])


@pytest.mark.parametrize(
    "power, expected, variance", [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_distractors_are_standard_normal(features, power, expected, variance):
    powers = features.astype(np.float64) ** power
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * np.sqrt(variance / powers.size)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["steps", "members", "features"])
@pytest.mark.parametrize("lag", [1, 2, 20])
def test_distractors_are_independent_across(features, axis, lag):
    noise = np.moveaxis(features, axis, 0)
    products = noise[lag:] * noise[:-lag]
    assert abs(products.mean()) < STANDARD_ERRORS / np.sqrt(products.size)
    vectors = features.reshape(-1, features.shape[-1])
    assert len(np.unique(vectors, axis=0)) == len(vectors)


def test_the_policy_acts_for_one_half_while_the_other_is_simulated(monkeypatch):
    """Both halves are at work before either is waited for; then each is sent back at once."""
    calls, make = [], envpool.make

    def watched(*arguments, **options):
        pool = make(*arguments, **options)
        name = len({number for number, _ in calls})
        for verb in ("send", "recv"):
            original = getattr(pool, verb)

            def call(*a, verb=verb, original=original, name=name, **k):
                calls.append((name, verb))
                return original(*a, **k)

            setattr(pool, verb, call)
        calls.append((name, "made"))
        return pool

    monkeypatch.setattr(envpool, "make", watched)
    task, policy = hopper(horizon=3)
    evaluate = make_evaluate(task, policy, num_members=8)
    calls.clear()
    evaluate(KEY, same(policy), None)
    start = [(0, "recv"), (0, "send"), (1, "recv"), (1, "send")]  # of the resets first
    assert calls == start * 3 + [(0, "recv"), (1, "recv")]


def test_the_answer_does_not_depend_on_the_threads():
    played = []
    for threads in (1, 3):
        task, policy = hopper(distractors=2, options={"num_threads": threads})
        evaluate = make_evaluate(task, policy, num_members=MEMBERS)
        played.append(evaluate(jax.random.key(3), population_of(policy)[1], None))
    one, three = played
    np.testing.assert_array_equal(one.fitness, three.fitness)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match="frame_skp.*frame_skip"):
        make_task(HOPPER, options={"frame_skp": 2})
    with pytest.raises(ValueError, match="no option 'seed'"):
        make_task(HOPPER, options={"seed": 2})
    with pytest.raises(ValueError, match="'max_episode_steps': set horizon"):
        make_task(HOPPER, options={"max_episode_steps": 2})


@pytest.mark.parametrize("value", [[0.7, 2.0], {"low": 1}, "high", None])
def test_an_option_of_a_wrong_type_is_told_in_one_sentence(value):
    with pytest.raises(ValueError, match="envpool/Hopper-v5 cannot be made with {'healthy_z_min'"):
        make_task(HOPPER, options={"healthy_z_min": value})


def test_an_option_reaches_the_simulator():
    played = []
    for options in ({}, {"healthy_reward": 3.0}):
        task, policy = hopper(options=options)
        evaluate = make_evaluate(task, policy, num_members=MEMBERS)
        played.append(evaluate(KEY, population_of(policy)[1], None))
    a, b = played
    # every step but the last, unhealthy one, pays two more
    np.testing.assert_allclose(b.fitness - a.fitness, 2.0 * (np.asarray(a.steps) - 1), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", of_modules("mujoco.gym", "classic_control", "box2d"))
def test_every_listed_task_plays(name):
    task = make_task(f"envpool/{name}", horizon=5)
    policy = make_policy(task)
    played = make_evaluate(task, policy, num_members=2)(KEY, same(policy), None)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()


@pytest.mark.slow
@pytest.mark.parametrize("x64", ["0", "1"])
def test_float64_trap(x64):
    """Hundreds of steps in either precision mode neither corrupt memory nor differ in lengths."""
    script = """
import jax, numpy as np
from nesht_jax import make_evaluate, make_policy, make_task, replicate
task = make_task("envpool/Hopper-v5")
policy = make_policy(task)
params = {"layer0": {"kernel": np.zeros((11, 3), np.float32), "bias": np.zeros(3, np.float32)}}
evaluate = make_evaluate(task, policy, num_members=16, seed=4)
for _ in range(5):
    played = evaluate(jax.random.key(0), replicate(params), None)
print(played.steps.sum(), np.asarray(played.fitness, np.float32).tobytes().hex())
"""
    env = {**os.environ, "JAX_ENABLE_X64": x64, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    steps, fitness = run.stdout.split()
    seeds = pool_seeds(4, 16)
    zeros = {"layer0": {"kernel": np.zeros((16, 11, 3)), "bias": np.zeros((16, 3))}}
    returns, lengths = plain_returns(seeds, zeros, resets=5)
    assert int(steps) == lengths.sum()
    np.testing.assert_allclose(
        np.frombuffer(bytes.fromhex(fitness), np.float32), returns, rtol=1e-6
    )
