"""The envpool room against plain loops over the same pool."""

import importlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax import make_evaluate, make_policy, task_names, task_spec
from nesht_jax.contract import Members, alike
from nesht_jax.normalize import empty, none, running

envpool = pytest.importorskip("envpool", reason="envpool has wheels for Linux only")
registry = importlib.import_module("envpool.registration").registry
room = importlib.import_module("nesht_jax.envs.envpool")

KEY = jax.random.key(0)

TASK = "envpool/Hopper-v5"
MEMBERS = 12

MUJOCO = [
    task
    for task in task_names("envpool")
    if registry.specs[task.partition("/")[2]][0] == "envpool.mujoco.gym"
]


def linear_policy(noise=0, normalizer=None):
    spec = task_spec(TASK)
    return make_policy(
        spec.observation_size * (1 + noise),
        spec.action_low,
        spec.action_high,
        normalizer=normalizer or none(),
    )


def members(policy, scale=1.0):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), MEMBERS))
    stacked = jax.tree.map(lambda x: scale * x, stacked)
    own = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    return stacked, Members(own)


def plain_returns(seeds, stacked, *, resets):
    """The obvious loop: every environment alone, numpy policy, nothing from the room."""
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


def test_equals_one_environment_at_a_time():
    """Also the proof against the float64 trap: bare float64 pools say the same."""
    assert not jax.config.jax_enable_x64
    policy = linear_policy()
    stacked, member = members(policy)
    evaluate = make_evaluate(TASK, policy, num_members=MEMBERS, seed=5)
    for call in (1, 2):
        played = evaluate(jax.random.key(0), member, None)
        returns, lengths = plain_returns(pool_seeds(5, MEMBERS), stacked, resets=call)
        np.testing.assert_array_equal(played.steps, lengths)
        np.testing.assert_allclose(played.fitness, returns, rtol=2e-3)
        assert int(played.simulated) == lengths.sum()


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_large_population_plays_in_parts(monkeypatch, parts):
    policy = linear_policy(normalizer=running())
    stacked, member = members(policy)
    whole, cut = (make_evaluate(TASK, policy, num_members=MEMBERS, seed=5) for _ in range(2))
    moments = empty(11)
    made, original = [], room._own

    def counted(members, indices):
        made.append(len(indices))
        return original(members, indices)

    counted.eval_shape = original.eval_shape
    monkeypatch.setattr(room, "_own", counted)
    d = sum(leaf[0].size for leaf in jax.tree.leaves(stacked))
    for call in (1, 2):
        expected = whole(jax.random.key(call), member, moments)
        with monkeypatch.context() as patch:
            patch.setattr(room.queue, "STORED_ENTRIES", MEMBERS * d // parts)
            made.clear()
            played = cut(jax.random.key(call), member, moments)
        assert max(made) * 2 * d <= MEMBERS * d // parts and sum(made) == MEMBERS
        np.testing.assert_array_equal(played.steps, expected.steps)
        np.testing.assert_allclose(played.fitness, expected.fitness, rtol=1e-5)
        np.testing.assert_allclose(played.observed.mean, expected.observed.mean, rtol=1e-4)


def test_seek_is_the_call_that_would_have_been():
    policy = linear_policy(noise=2)
    _, member = members(policy)
    through, jumped = (
        make_evaluate(TASK, policy, num_members=MEMBERS, noise=2, seed=1) for _ in range(2)
    )
    keys = jax.random.split(jax.random.key(0), 4)
    results = [through(key, member, None) for key in keys]
    for call in (3, 0, 2):
        jumped.seek(call)
        again = jumped(keys[call], member, None)
        np.testing.assert_array_equal(results[call].fitness, again.fitness)
        np.testing.assert_array_equal(results[call].steps, again.steps)


def test_a_pair_shares_its_resets_only_if_asked():
    """With equal weights and no noise a pair that shares its reset has one return."""
    policy = linear_policy()
    params = policy.init(jax.random.key(0))
    same = alike(params)
    for shared in (True, False):
        evaluate = make_evaluate(TASK, policy, num_members=8, common_random_numbers=shared)
        pairs = np.asarray(evaluate(jax.random.key(0), same, None).fitness).reshape(-1, 2)
        assert ((pairs[:, 0] == pairs[:, 1]) == shared).all()
        assert len(np.unique(pairs[:, 0])) == len(pairs)


def test_rollouts_are_averaged_and_counted():
    policy = linear_policy()
    params = policy.init(jax.random.key(0))
    same = alike(params)
    one = make_evaluate(TASK, policy, num_members=6, seed=9)(jax.random.key(0), same, None)
    pairs = make_evaluate(TASK, policy, num_members=3, rollouts=2, seed=9)
    two = pairs(jax.random.key(0), same, None)
    np.testing.assert_allclose(two.fitness, one.fitness.reshape(3, 2).mean(1), rtol=1e-6)
    np.testing.assert_array_equal(two.steps, one.steps.reshape(3, 2).sum(1))


def test_horizon_cuts():
    policy = linear_policy()
    _, member = members(policy, scale=0.0)
    evaluate = make_evaluate(TASK, policy, num_members=MEMBERS, horizon=7)
    assert (evaluate(jax.random.key(0), member, None).steps == 7).all()


def test_moments_count_living_observations_only():
    """Noise features are N(0, 1) in them, and the count is the number of useful steps."""
    noise, tolerance = 3, 5
    policy = linear_policy(noise, running())
    _, member = members(policy)
    features = task_spec(TASK).observation_size * (1 + noise)
    evaluate = make_evaluate(TASK, policy, num_members=MEMBERS, noise=noise)
    played = evaluate(jax.random.key(2), member, empty(features))
    count = int(played.steps.sum())
    assert int(played.observed.number) == count
    mean = np.asarray(played.observed.mean)[features // (1 + noise) :]
    variance = np.asarray(played.observed.deviation)[features // (1 + noise) :] / count
    assert np.abs(mean).max() < tolerance / np.sqrt(count)
    assert np.abs(variance - 1).max() < tolerance * np.sqrt(2 / count)


def test_noise_features_make_a_difference_and_depend_on_the_key():
    policy = linear_policy(noise=2)
    _, member = members(policy)

    def play(key):
        evaluate = make_evaluate(TASK, policy, num_members=MEMBERS, noise=2)
        return evaluate(jax.random.key(key), member, None)

    np.testing.assert_array_equal(play(0).fitness, play(0).fitness)
    assert (play(0).fitness != play(1).fitness).any()


STANDARD_ERRORS = 4


@pytest.fixture(scope="module")
def features():
    """What an idle policy sees of noise, all episodes alive: [steps, members, features]."""
    noise, horizon, seen = 4, 40, []

    def watch(policy, task, action_noise, scale):
        def act(params, moments, own, batch, jitter, observed, counted):
            assert counted.all()
            seen.append(batch[:, task.observation_size :].copy())
            return np.zeros((len(batch), 3), np.float32), observed

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "batched_act", watch)
        policy = linear_policy(noise)
        evaluate = make_evaluate(TASK, policy, num_members=40, noise=noise, horizon=horizon)
        evaluate(jax.random.key(5), alike(policy.init(KEY)), None)
    return np.array([np.concatenate(halves) for halves in zip(seen[::2], seen[1::2], strict=True)])


@pytest.mark.parametrize(
    "power, expected, variance", [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_noise_features_are_standard_normal(features, power, expected, variance):
    powers = features.astype(np.float64) ** power
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * np.sqrt(variance / powers.size)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["steps", "members", "features"])
@pytest.mark.parametrize("lag", [1, 2, 20])
def test_noise_features_are_independent_across(features, axis, lag):
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
    policy = linear_policy()
    evaluate = make_evaluate(TASK, policy, num_members=8, horizon=3)
    calls.clear()
    evaluate(jax.random.key(0), alike(policy.init(KEY)), None)
    start = [(0, "recv"), (0, "send"), (1, "recv"), (1, "send")]  # of the resets first
    assert calls == start * 3 + [(0, "recv"), (1, "recv")]


def test_the_answer_does_not_depend_on_the_threads():
    policy = linear_policy(noise=2)
    _, member = members(policy)
    one, three = (
        make_evaluate(TASK, policy, num_members=MEMBERS, noise=2, options={"num_threads": n})(
            jax.random.key(3), member, None
        )
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one.fitness, three.fitness)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match="frame_skp.*frame_skip"):
        task_spec(TASK, {"frame_skp": 2})
    with pytest.raises(ValueError, match="no option 'seed'"):
        task_spec(TASK, {"seed": 2})


def test_an_option_reaches_the_simulator():
    policy = linear_policy()
    _, member = members(policy)
    plain = make_evaluate(TASK, policy, num_members=MEMBERS)
    richer = make_evaluate(TASK, policy, num_members=MEMBERS, options={"healthy_reward": 3.0})
    a, b = (e(jax.random.key(0), member, None) for e in (plain, richer))
    # every step but the last, unhealthy one, pays two more
    np.testing.assert_allclose(b.fitness - a.fitness, 2.0 * (np.asarray(a.steps) - 1), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("task", MUJOCO)
def test_every_listed_task_plays(task):
    spec = task_spec(task)
    policy = make_policy(
        spec.observation_size, spec.action_low, spec.action_high, normalizer=none()
    )
    evaluate = make_evaluate(task, policy, num_members=2, horizon=5)
    member = alike(policy.init(jax.random.key(0)))
    played = evaluate(jax.random.key(0), member, None)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()


@pytest.mark.parametrize("x64", ["0", "1"])
def test_float64_trap(x64):
    """Hundreds of steps in either precision mode neither corrupt memory nor differ in lengths."""
    script = """
import jax, numpy as np
from nesht_jax import make_evaluate, make_policy, task_spec
from nesht_jax.contract import alike
from nesht_jax.normalize import none
spec = task_spec("envpool/Hopper-v5")
policy = make_policy(spec.observation_size, spec.action_low, spec.action_high, normalizer=none())
params = {"layer0": {"kernel": np.zeros((11, 3), np.float32), "bias": np.zeros(3, np.float32)}}
evaluate = make_evaluate("envpool/Hopper-v5", policy, num_members=16, seed=4)
for _ in range(5):
    played = evaluate(jax.random.key(0), alike(params), None)
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
