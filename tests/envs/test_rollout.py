"""Rollouts of pure rooms: nothing after the end counts, and the loop equals the obvious twin."""

import functools
import heapq
import importlib

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax import make_evaluate, make_policy, task_names, task_spec
from nesht_jax.contract import Members
from nesht_jax.envs import probe, queue
from nesht_jax.envs.noisy import observe
from nesht_jax.envs.queue import default_slots
from nesht_jax.envs.rollout import episode_keys, make_act
from nesht_jax.envs.task import TaskSpec
from nesht_jax.normalize import empty, none, running

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(11)
MEMBERS = 6


def policy_of(task, noise=0, normalizer=None):
    spec = task_spec(task)
    return make_policy(
        spec.observation_size * (1 + noise),
        spec.action_low,
        spec.action_high,
        output="clip",
        normalizer=normalizer or none(),
    )


def pick(stacked, i):
    return jax.tree.map(lambda x: x[i], stacked)


def population(policy, scale):
    """Random members, stacked."""
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), MEMBERS))
    return jax.tree.map(lambda x: scale * x, stacked)


@functools.cache
def room(task, *, noise=0, normalizer=none, num_members=MEMBERS, **options):
    """What plays the stacked members of a task; compiled once for all tests."""
    policy = policy_of(task, noise, normalizer())
    evaluate = jax.jit(make_evaluate(task, policy, num_members=num_members, noise=noise, **options))
    moments = empty(task_spec(task).observation_size * (1 + noise)) if policy.observes else None
    return lambda stacked: evaluate(KEY, Members(Partial(pick, stacked)), moments)


def played(task, *, noise=0, scale=0.0, **options):
    """Evaluation of random members; ``scale=0`` makes them all do nothing."""
    return room(task, noise=noise, **options)(population(policy_of(task, noise), scale))


def lengths(rollouts=1, common_random_numbers=False):
    """Lengths of the countdown's episodes, straight from their reset keys: [m, r]."""
    reset = probe.countdown().reset

    def length(i, r):
        key, _ = episode_keys(KEY, i, r, common_random_numbers=common_random_numbers)
        return reset(key)[0]

    pairs = jax.vmap(jax.vmap(length, (None, 0)), (0, None))
    return np.asarray(pairs(jnp.arange(MEMBERS), jnp.arange(rollouts)))


# ------------------------------------------------------------------------------------ dead steps


# the same room for all: three rollouts, moments gathered
counted = functools.partial(played, "probe/countdown", rollouts=3, normalizer=running)


def test_steps_are_the_lengths_of_the_episodes():
    assert counted().steps.tolist() == lengths(3).sum(1).tolist()


def test_fitness_is_the_mean_over_rollouts_and_pays_no_dead_step():
    """Doing nothing pays 1 a step that lives."""
    np.testing.assert_allclose(counted().fitness, lengths(3).mean(1), rtol=1e-6)


def test_the_horizon_cuts():
    evaluation = played("probe/countdown", horizon=7)
    expected = np.minimum(lengths()[:, 0], 7).tolist()
    assert evaluation.steps.tolist() == evaluation.fitness.tolist() == expected


def test_the_tasks_own_horizon_is_the_default():
    assert played("probe/linear", rollouts=2).steps.tolist() == [2 * 10] * MEMBERS


def test_observations_are_counted_while_the_episode_lives_and_no_longer():
    observed = counted().observed
    left = np.concatenate([np.arange(n, 0, -1) for n in lengths(3).ravel()]) / 20
    assert observed.number == left.size
    np.testing.assert_allclose(observed.mean, [left.mean(), 1], rtol=1e-5)
    np.testing.assert_allclose(
        observed.deviation, [left.var() * left.size, 0], rtol=1e-4, atol=1e-6
    )


def test_no_moments_are_gathered_for_a_policy_that_reads_none():
    assert played("probe/linear", rollouts=2).observed is None


# -------------------------------------------------------------------------------------- the queue


def rounds_of(lengths, slots):
    """Of the greedy schedule: whoever is free first takes the next episode."""
    free = [0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


@pytest.mark.parametrize("slots", [1, 4, 17, 3 * MEMBERS, 100])
def test_a_slot_whose_episode_ends_takes_the_next(slots):
    evaluation, slots = counted(slots=slots), min(slots, 3 * MEMBERS)
    assert evaluation.simulated == slots * rounds_of(lengths(3).ravel(), slots)
    assert evaluation.steps.tolist() == lengths(3).sum(1).tolist()


def masked(task, stacked, *, noise, rollouts, horizon, normalizer=none):
    """The obvious twin: every episode steps to the horizon, and dead steps count for nothing."""
    environment = room_of(task)
    policy = policy_of(task, noise, normalizer())
    moments = empty(environment.spec.observation_size * (1 + noise)) if policy.observes else None
    act = make_act(policy, environment.spec, noise=noise, action_noise=0.0)

    def episode(i, r):
        reset_key, stream_key = episode_keys(KEY, i, r, common_random_numbers=False)
        params = pick(stacked, i)
        words = jax.random.bits(stream_key, (2, 2))

        def step(carry, t):
            state, observation, alive = carry
            seen, action = act(params, moments, observation, words, t)
            after = environment.step(state, action)
            carry = (after.state, after.observation, alive & ~after.terminated)
            carry = jax.tree.map(lambda x, like: x.astype(like.dtype), carry, first)
            return carry, (after.reward * alive, seen, alive)

        first = (*environment.reset(reset_key), jnp.asarray(True))
        return jax.lax.scan(step, first, jnp.arange(horizon))[1]

    every = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    reward, seen, alive = jax.jit(every)(jnp.arange(MEMBERS), jnp.arange(rollouts))
    return reward.sum(-1).mean(1), alive.sum((1, 2)), np.asarray(seen)[np.asarray(alive)]


def room_of(task):
    room, name = task.split("/")
    return importlib.import_module(f"nesht_jax.envs.{room}").make(name, {})


EVERY_PURE_ROOM = [
    "probe/countdown",
    "probe/linear",
    pytest.param("gymnax/CartPole-v1", marks=pytest.mark.slow),
    pytest.param("playground/CartpoleBalance", marks=[pytest.mark.slow, pytest.mark.simulator]),
    pytest.param("brax/hopper", marks=[pytest.mark.slow, pytest.mark.simulator]),
    pytest.param("mjx/inverted_double_pendulum", marks=[pytest.mark.slow, pytest.mark.simulator]),
]


@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing .* directly:DeprecationWarning")
@pytest.mark.parametrize("task", EVERY_PURE_ROOM)
def test_returns_are_those_of_the_masked_scan(task):
    """The same keys, so the same episodes. A batch of another size sums in another order: 1e-4 of a
    return, as long as no contact falls to the other side of a bound."""
    options = {"noise": 1, "rollouts": 2, "horizon": 30, "normalizer": running}
    stacked = population(policy_of(task, 1), 1.0)
    fitness, steps, seen = masked(task, stacked, **options)
    evaluation = played(task, scale=1.0, slots=4, **options)
    assert evaluation.steps.tolist() == steps.tolist()
    np.testing.assert_allclose(evaluation.fitness, fitness, rtol=1e-4, atol=1e-5)
    assert evaluation.observed.number == len(seen)
    np.testing.assert_allclose(evaluation.observed.mean, seen.mean(0), rtol=1e-3, atol=1e-4)


def test_members_regenerated_as_they_begin_are_those_that_are_stored(monkeypatch):
    stored = counted(scale=1.0, slots=4)
    monkeypatch.setattr(queue, "STORED_ENTRIES", 0)
    room.cache_clear()
    jax.tree.map(np.testing.assert_array_equal, counted(scale=1.0, slots=4), stored)


def test_no_population_is_stored_beyond_the_bound(monkeypatch):
    """Nothing in the program is as large as the population."""
    monkeypatch.setattr(queue, "STORED_ENTRIES", 0)
    policy = policy_of("probe/countdown", noise=20)
    evaluate = make_evaluate("probe/countdown", policy, num_members=64, noise=20, slots=2)
    params = policy.init(KEY)
    member = Members(Partial(lambda params, i: jax.tree.map(lambda p: p + i, params), params))
    jaxpr = jax.make_jaxpr(lambda key: evaluate(key, member, None))(KEY)
    d = sum(leaf.size for leaf in jax.tree.leaves(params))
    floats = [v.aval.size for v in variables(jaxpr.jaxpr) if v.aval.dtype == jnp.float32]
    assert max(floats) < 64 * d / 8


def variables(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from variables(inner)


def test_by_default_a_cpu_plays_few_episodes_at_once(monkeypatch):
    def usual(*episodes, terminates=True):
        return [default_slots(n, terminates=terminates) for n in episodes]

    assert usual(1, 8, 256, 512, 4096) == [1, 8, 8, 16, 64]
    assert usual(1, 64, 65, 100, 256, terminates=False) == [1, 64, 33, 50, 64]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert usual(1, 256, 10**6) == [1, 256, 4096]
    assert usual(4096, 5000, terminates=False) == [4096, 2500]


@pytest.mark.simulator
@pytest.mark.parametrize(
    "task, terminates", [("mjx/hopper", True), ("mjx/halfcheetah", False), ("mjx/ant", True)]
)
def test_tasks_know_whether_an_episode_may_end_early(task, terminates):
    assert task_spec(task).terminates == terminates


@pytest.mark.slow
def test_a_queue_may_be_vmapped():
    policy = policy_of("probe/countdown")
    evaluate = make_evaluate("probe/countdown", policy, num_members=MEMBERS, slots=2)
    stacked, keys = population(policy, 1.0), jax.random.split(KEY, 3)
    together = jax.vmap(lambda key: evaluate(key, Members(Partial(pick, stacked)), None))(keys)
    for i, key in enumerate(keys):
        alone = evaluate(key, Members(Partial(pick, stacked)), None)
        assert together.steps[i].tolist() == alone.steps.tolist()
        np.testing.assert_allclose(together.fitness[i], alone.fitness, rtol=1e-6)


# -------------------------------------------------------------------------------- the plain twin


def plain_returns(stacked, *, noise, rollouts):
    """The obvious loop: one member, one episode, one step at a time, numpy policy, no jit."""
    environment, returns = probe.linear(), np.zeros((MEMBERS, rollouts))
    for i, r in np.ndindex(*returns.shape):
        kernel, bias = (np.asarray(stacked["layer0"][name][i]) for name in ("kernel", "bias"))
        reset_key, stream_key = episode_keys(
            KEY, jnp.int32(i), jnp.int32(r), common_random_numbers=False
        )
        words = jax.random.bits(stream_key, (2, 2))
        state, observation = environment.reset(reset_key)
        for step in range(environment.spec.horizon):
            seen = np.asarray(observe(observation, noise, words[0], jnp.int32(step)))
            state, observation, reward, _ = environment.step(
                state, jnp.asarray(seen @ kernel + bias)
            )
            returns[i, r] += float(reward)
    return returns.mean(1)


@pytest.mark.parametrize("noise, rollouts", [(0, 2), (1, 1)])
def test_fitness_is_that_of_a_plain_loop(noise, rollouts):
    stacked = population(policy_of("probe/linear", noise), scale=1.0)
    evaluation = played("probe/linear", noise=noise, rollouts=rollouts, scale=1.0)
    expected = plain_returns(stacked, noise=noise, rollouts=rollouts)
    np.testing.assert_allclose(evaluation.fitness, expected, rtol=1e-4)


def test_a_member_does_not_depend_on_how_many_play_beside_it():
    few = played("probe/linear", noise=1, rollouts=1, scale=1.0, num_members=3)
    many = played("probe/linear", noise=1, rollouts=1, scale=1.0)
    np.testing.assert_allclose(few.fitness, many.fitness[:3], rtol=1e-6)


# ----------------------------------------------------------------------------- keys of an episode


def key_words(key):
    return tuple(jax.random.key_data(key).tolist())


def keys_of(i, r, common=True):
    keys = episode_keys(KEY, jnp.int32(i), jnp.int32(r), common_random_numbers=common)
    return [key_words(key) for key in keys]


def test_a_mirrored_pair_shares_its_resets_and_nothing_else():
    episodes = [(i, r) for i in range(4) for r in range(2)]
    resets, streams = zip(*(keys_of(*episode) for episode in episodes), strict=True)
    assert len({*resets}) == 4 and len({*streams}) == 8 and not {*resets} & {*streams}
    for r in range(2):
        assert keys_of(0, r)[0] == keys_of(1, r)[0] != keys_of(2, r)[0] == keys_of(3, r)[0]


def test_without_common_random_numbers_every_episode_has_its_own_reset():
    assert len({keys_of(i, r, common=False)[0] for i in range(4) for r in range(2)}) == 8


# many rollouts, so that the cost of the jitter shows; its steps are those of the shared resets
jittered = functools.partial(
    played, "probe/countdown", rollouts=40, common_random_numbers=True, action_noise=0.1
)


def test_common_random_numbers_reach_the_simulator():
    steps = jittered().steps
    assert steps.tolist() == lengths(40, common_random_numbers=True).sum(1).tolist()
    assert (steps[0::2] == steps[1::2]).all() and len(np.unique(steps)) == MEMBERS // 2


# --------------------------------------------------------------------------------- noise features

OBSERVATION = jnp.array([3.0, -4.0])
WORDS = jax.random.bits(KEY, (2, 2))
features = jax.jit(
    jax.vmap(jax.vmap(lambda words, t: observe(OBSERVATION, 2, words, t), (None, 0)), (0, None))
)


@functools.cache
def drawn():
    """Of 100 episodes of 50 steps: [100, 50, 4] noise features."""
    seen = features(jax.random.bits(KEY, (100, 2)), jnp.arange(50))
    return np.asarray(seen)[..., 2:]


def test_the_true_observation_comes_first_untouched():
    seen = features(jax.random.bits(KEY, (3, 2)), jnp.arange(4))
    np.testing.assert_array_equal(seen[..., :2], np.broadcast_to(OBSERVATION, (3, 4, 2)))


def test_without_noise_the_observation_is_all():
    np.testing.assert_array_equal(observe(OBSERVATION, 0, WORDS[0], jnp.int32(0)), OBSERVATION)


@pytest.mark.parametrize(
    "power, expected, variance", [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_noise_features_are_standard_normal(power, expected, variance):
    powers = drawn() ** power
    standard_error = np.sqrt(variance / powers.size)
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * standard_error


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["episodes", "steps", "features"])
@pytest.mark.parametrize("lag", [1, 2])
def test_noise_features_are_independent_across(axis, lag):
    noise = np.moveaxis(drawn(), axis, 0)
    products = noise[lag:] * noise[:-lag]
    assert abs(products.mean()) < STANDARD_ERRORS / np.sqrt(products.size)


def test_noise_features_are_fresh_each_step_and_episode():
    assert len(np.unique(drawn())) > 0.99 * drawn().size


def test_the_policies_see_the_noise_features():
    observed = played("probe/linear", noise=3, normalizer=running, rollouts=20).observed
    number, noise = float(observed.number), slice(5, None)
    assert number == 10 * 20 * MEMBERS
    assert (abs(observed.mean[noise]) < STANDARD_ERRORS / np.sqrt(number)).all()
    variances = observed.deviation[noise] / number
    assert (abs(variances - 1) < STANDARD_ERRORS * np.sqrt(2 / number)).all()


# ----------------------------------------------------------------------------------- action noise


def actions(bound, action_noise, steps=2000):
    """Of a policy that does nothing, at every step of one episode."""
    bounds = np.full(1, bound, np.float32)
    spec = TaskSpec(2, -bounds, bounds, steps)
    policy = make_policy(2, -bounds, bounds, output="clip", normalizer=none())
    still = jax.tree.map(jnp.zeros_like, policy.init(KEY))
    act = make_act(policy, spec, noise=0, action_noise=action_noise)
    step = jax.vmap(lambda t: act(still, None, OBSERVATION, WORDS, t)[1])
    return np.asarray(step(jnp.arange(steps)))[:, 0]


def test_action_noise_has_the_scale_asked_for():
    noise = actions(np.inf, 0.3)
    assert abs(noise.mean()) < STANDARD_ERRORS * 0.3 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.3 - 1) < STANDARD_ERRORS / np.sqrt(2 * noise.size)


def test_action_noise_is_fresh_each_step():
    noise = actions(np.inf, 0.3)
    assert abs((noise[1:] * noise[:-1]).mean()) < STANDARD_ERRORS * 0.3**2 / np.sqrt(noise.size)


def test_noisy_actions_keep_their_bounds():
    noise = actions(0.2, 0.3)
    assert noise.min() == np.float32(-0.2) and noise.max() == np.float32(0.2)


def test_without_action_noise_actions_are_the_policys():
    assert (actions(1.0, 0.0, steps=5) == 0).all()


def test_action_noise_reaches_the_simulator():
    """Doing nothing pays the length; a jitter of variance s² costs about s² a step."""
    noisy = jittered()
    steps = int(noisy.steps.sum())
    cost = (steps - 40 * float(noisy.fitness.sum())) / steps
    standard_error = 0.1**2 * np.sqrt(2 / steps)
    assert abs(cost - 0.1**2) < STANDARD_ERRORS * standard_error


# ----------------------------------------------------------------------------------------- probes


def return_of(kernel):
    """Of the linear probe, for all members alike, from the same keys."""
    kernel = jnp.tile(jnp.array(kernel)[None, :, None], (MEMBERS, 1, 1))
    params = {"layer0": {"kernel": kernel, "bias": jnp.zeros((MEMBERS, 1))}}
    return room("probe/linear", noise=0, rollouts=2)(params).fitness


def test_the_answer_of_linear_is_worth_zero_and_nothing_is_worth_more():
    best = return_of(probe.LINEAR_WEIGHTS)
    np.testing.assert_allclose(best, np.zeros(MEMBERS), atol=1e-5)
    for i in range(5):
        other = np.array(probe.LINEAR_WEIGHTS)
        other[i] *= 0.9
        assert (return_of(other) < best).all()


def test_doing_nothing_is_the_answer_of_countdown():
    assert (counted(scale=0.1).fitness < counted().fitness).all()


@pytest.mark.parametrize("task", task_names("probe"))
def test_every_probe_is_as_its_spec_says(task):
    environment = probe.make(task.removeprefix("probe/"), {})
    state, observation = environment.reset(KEY)
    action = jnp.zeros(environment.spec.action_low.shape)
    transition = environment.step(state, action)
    assert observation.shape == transition.observation.shape
    assert observation.shape == (task_spec(task).observation_size,)


def test_an_option_no_probe_has_is_refused():
    with pytest.raises(ValueError, match="no options, got speed"):
        task_spec("probe/linear", {"speed": 3})


@pytest.mark.parametrize(
    "task, match",
    [
        ("prob/linear", "unknown room 'prob'.*probe"),
        ("probe/lineer", "unknown task 'probe/lineer'.*probe/linear"),
        ("linear", "unknown room"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest(task, match):
    with pytest.raises(ValueError, match=match):
        task_spec(task)
