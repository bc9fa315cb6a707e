"""Rollouts of pure suites: nothing after the end counts, what fails harms nobody else, and the loop
equals the obvious twin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax.envs.distractors import append, no_action
from nesht_jax.envs.rollout import episode_keys, make_act, make_pure_evaluate
from nesht_jax.envs.suite import Environment, Transition
from nesht_jax.envs.tasks import make_evaluate, make_task
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Moments, Policy, Population, Task, replicate

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(11)
MEMBERS = 6


def linear(task, *, uses_moments=False):
    """A linear policy by hand; where it uses moments it subtracts their mean."""

    def init(key):
        shape = (task.num_features, task.num_actions)
        return {"kernel": jax.random.normal(key, shape), "bias": jnp.zeros(shape[1])}

    def apply(params, moments, x):
        x = x - moments.mean if uses_moments else x
        return x @ params["kernel"] + params["bias"]

    return Policy(init, apply, uses_moments)


def pick(stacked, i):
    return jax.tree.map(lambda x: x[i], stacked)


def members(policy, scale=1.0):
    """Random members, stacked."""
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), MEMBERS))
    return jax.tree.map(lambda x: scale * x, stacked)


@functools.cache
def evaluation_of(name, *, distractors=0, horizon=None, uses_moments=False, **rules):
    """What plays stacked members of a task; compiled once for all tests."""
    task = make_task(name, distractors=distractors, horizon=horizon)
    policy = linear(task, uses_moments=uses_moments)
    evaluate = jax.jit(make_evaluate(task, policy, **{"num_members": MEMBERS} | rules))
    moments = Moments.empty(task.num_features) if uses_moments else None

    def evaluation(scale=1.0, stacked=None):
        stacked = members(policy, scale) if stacked is None else stacked
        return evaluate(KEY, Population(Partial(pick, stacked)), moments)

    return evaluation


def played(name, *, scale=0.0, **rules):
    """Evaluation of random members; ``scale=0`` makes them all do nothing."""
    return evaluation_of(name, **rules)(scale)


def lengths(episodes=1, common_random_numbers=False):
    """Lengths of the countdown's episodes, straight from their reset keys: [m, episodes]."""
    reset = make_task("probe/countdown").simulator.reset

    def length(i, e):
        key, _ = episode_keys(KEY, i, e, common_random_numbers=common_random_numbers)
        return reset(key)[0]

    pairs = jax.vmap(jax.vmap(length, (None, 0)), (0, None))
    return np.asarray(pairs(jnp.arange(MEMBERS), jnp.arange(episodes)))


# ------------------------------------------------------------------------------------ dead steps


# the same program for all: three episodes a member, moments gathered
counted = functools.partial(played, "probe/countdown", episodes_per_member=3, uses_moments=True)


def test_steps_are_the_lengths_of_the_episodes():
    assert counted().steps.tolist() == lengths(3).sum(1).tolist()


def test_fitness_is_the_mean_over_episodes_and_pays_no_dead_step():
    """Doing nothing pays 1 a step that lives."""
    np.testing.assert_allclose(counted().fitness, lengths(3).mean(1), rtol=1e-6)


def test_the_horizon_cuts():
    evaluation = played("probe/countdown", horizon=7)
    expected = np.minimum(lengths()[:, 0], 7).tolist()
    assert evaluation.steps.tolist() == evaluation.fitness.tolist() == expected


def test_the_tasks_own_horizon_is_the_default():
    assert played("probe/linear", episodes_per_member=2).steps.tolist() == [2 * 10] * MEMBERS


def test_observations_are_counted_while_the_episode_lives_and_no_longer():
    observed = counted().observed
    left = np.concatenate([np.arange(n, 0, -1) for n in lengths(3).ravel()]) / 20
    assert observed.number == left.size
    np.testing.assert_allclose(observed.mean, [left.mean(), 1], rtol=1e-5)
    np.testing.assert_allclose(
        observed.deviation, [left.var() * left.size, 0], rtol=1e-4, atol=1e-6
    )


def test_no_moments_are_gathered_for_a_policy_that_reads_none():
    assert played("probe/linear", episodes_per_member=2).observed is None


# ---------------------------------------------------------------------------------- failed episodes


NEVER, LONGEST = 99, 8

# of each kind of episode: after how many steps its sensor shows NaN, at which step it is paid
# infinity, after how many it dies; then how many steps count, and whether it fails
KINDS = np.array(
    [
        (0, NEVER, 6, 0, True),  # blind from the first: nothing was done
        (3, NEVER, 6, 3, True),
        (5, NEVER, NEVER, 5, True),
        (6, NEVER, 6, 6, False),  # nobody acts on what is shown at the end
        (LONGEST, NEVER, NEVER, LONGEST, False),  # nor at the horizon
        (NEVER, 1, 6, 1, True),  # the observation that led there was a good one
        (NEVER, 4, NEVER, 4, True),
        (NEVER, 6, 6, 6, True),  # by its last step
        (NEVER, LONGEST, NEVER, LONGEST, True),
        *[(NEVER, NEVER, 6, 6, False), (NEVER, NEVER, NEVER, LONGEST, False)] * 8,
    ]
)
FAULTY_MEMBERS, FAULTY_EPISODES = 32, 3


def faulty(*, repaired=False):
    """A task that pays 1 + u a step and shows (steps done, u), u ~ U(0, 1) of the episode; its kind
    is drawn from ``KINDS``. Repaired, it pays and shows nothing but numbers."""
    table = jnp.asarray(KINDS[:, :3], jnp.int32)

    def observe(t, u, sensor):
        blind = (t == sensor) & (not repaired)
        return jnp.stack([jnp.where(blind, jnp.nan, t.astype(jnp.float32)), u])

    def reset(key):
        kind, u = kind_of(key), jax.random.uniform(key, dtype=jnp.float32)
        return (jnp.int32(0), u, kind), observe(jnp.int32(0), u, table[kind, 0])

    def step(state, action):
        before, u, kind = state
        t, (sensor, payment, dies) = before + 1, table[kind]
        reward = jnp.where((t == payment) & (not repaired), jnp.inf, 1 + u - 0 * action[0])
        return Transition((t, u, kind), observe(t, u, sensor), reward, t >= dies)

    bound = np.ones(1, np.float32)
    simulator = Environment(reset, step)
    return Task("probe/faulty", {}, 2, -bound, bound, False, LONGEST, simulator=simulator)


def kind_of(key):
    return jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(KINDS), jnp.int32)


@functools.cache
def play_faulty(*, repaired=False):
    task = faulty(repaired=repaired)
    policy = linear(task, uses_moments=True)
    rules = {"num_members": FAULTY_MEMBERS, "episodes_per_member": FAULTY_EPISODES, "num_envs": 5}
    params = jax.tree.map(jnp.ones_like, policy.init(KEY))
    evaluate = jax.jit(make_pure_evaluate(task, policy, **rules))
    return evaluate(KEY, replicate(params), Moments.empty(2))


@functools.cache
def faulty_episodes():
    """What must come of every episode: (u, steps that count, whether it fails), each [m, e]."""

    def episode(i, e):
        key, _ = episode_keys(KEY, i, e, common_random_numbers=False)
        return jax.random.uniform(key, dtype=jnp.float32), kind_of(key)

    pairs = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    u, kind = pairs(jnp.arange(FAULTY_MEMBERS), jnp.arange(FAULTY_EPISODES))
    assert set(range(11)) < set(np.unique(kind).tolist())  # the others are repetitions
    _, _, _, steps, fails = np.moveaxis(KINDS[np.asarray(kind)], -1, 0)
    return np.asarray(u), steps, fails.astype(bool)


@pytest.mark.slow
def test_an_episode_that_shows_its_policy_or_is_paid_no_number_fails_and_ends():
    _, steps, fails = faulty_episodes()
    evaluation = play_faulty()
    np.testing.assert_array_equal(np.isnan(evaluation.fitness), fails.any(1))
    assert evaluation.steps.tolist() == steps.sum(1).tolist()


def test_the_other_members_do_not_feel_it():
    """Bit for bit, though every environment that fails an episode plays others after it."""
    _, _, fails = faulty_episodes()
    well = ~fails.any(1)
    assert 5 < well.sum() < 27
    fitness, repaired = play_faulty().fitness, play_faulty(repaired=True).fitness
    assert np.isfinite(repaired).all()
    np.testing.assert_array_equal(fitness[well], repaired[well])


def test_observations_that_are_no_numbers_enter_no_moments():
    u, steps, _ = faulty_episodes()
    pairs = zip(u.ravel(), steps.ravel(), strict=True)
    seen = np.array([(t, x) for x, n in pairs for t in range(n)])
    observed = play_faulty().observed
    assert observed.number == len(seen)
    np.testing.assert_allclose(observed.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(observed.deviation, seen.var(0) * len(seen), rtol=1e-4)


# --------------------------------------------------------------------------------- the obvious twin


MASKED = {
    "distractors": 1,
    "episodes_per_member": 2,
    "horizon": 30,
    "num_envs": 4,
    "uses_moments": True,
}


def masked(task, stacked, *, episodes_per_member):
    """Every episode steps to the horizon, and dead steps count for nothing."""
    act = make_act(task, linear(task, uses_moments=True), action_noise=0.0)
    moments, idle = Moments.empty(task.num_features), no_action(task)
    reset, simulate = jax.jit(task.simulator.reset), jax.jit(task.simulator.step)

    def episode(i, e):
        reset_key, stream_key = episode_keys(KEY, i, e, common_random_numbers=False)
        random_bits = jax.random.bits(stream_key, (2, 2), jnp.uint32)

        def step(carry, t):
            state, observation, alive = carry
            seen, action = act(pick(stacked, i), moments, observation, random_bits, t, idle)
            after = simulate(state, action)
            carry = (after.state, after.observation, alive & ~after.terminated)
            return carry, (after.reward * alive, seen, alive)

        first = (*reset(reset_key), jnp.asarray(True))
        return jax.lax.scan(step, first, jnp.arange(task.horizon))[1]

    every = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    reward, seen, alive = jax.jit(every)(jnp.arange(MEMBERS), jnp.arange(episodes_per_member))
    return reward.sum(-1).mean(1), alive.sum((1, 2)), np.asarray(seen)[np.asarray(alive)]


# the cheapest to compile of each suite; MJX's state is in Playground's, and its returns are held
# against EnvPool's in tests/run/test_evaluate.py
EVERY_PURE_SUITE = [
    "probe/countdown",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "probe/linear",
            "gymnax/CartPole-v1",
            "playground/CartpoleBalance",
            "brax/inverted_pendulum",
        )
    ),
]


@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing .* directly:DeprecationWarning")
@pytest.mark.parametrize("name", EVERY_PURE_SUITE)
def test_returns_are_those_of_the_masked_scan(name):
    """The same keys, so the same episodes. A batch of another size sums in another order: 1e-4 of a
    return, as long as no contact falls to the other side of a bound."""
    task = make_task(name, distractors=1, horizon=30)
    fitness, steps, seen = masked(task, members(linear(task)), episodes_per_member=2)
    evaluation = played(name, scale=1.0, **MASKED)
    assert evaluation.steps.tolist() == steps.tolist()
    np.testing.assert_allclose(evaluation.fitness, fitness, rtol=1e-4, atol=1e-5)
    assert evaluation.observed.number == len(seen)
    np.testing.assert_allclose(evaluation.observed.mean, seen.mean(0), rtol=1e-3, atol=1e-4)


def plain_returns(stacked, *, distractors, episodes_per_member):
    """The obvious loop: one member, one episode, one step at a time, numpy policy, no jit."""
    task = make_task("probe/linear", distractors=distractors)
    returns = np.zeros((MEMBERS, episodes_per_member))
    for i, e in np.ndindex(*returns.shape):
        kernel, bias = (np.asarray(stacked[name][i]) for name in ("kernel", "bias"))
        reset_key, stream_key = episode_keys(
            KEY, jnp.int32(i), jnp.int32(e), common_random_numbers=False
        )
        random_bits = jax.random.bits(stream_key, (2, 2), jnp.uint32)
        state, observation = task.simulator.reset(reset_key)
        for step in range(task.horizon):
            seen = np.asarray(
                append(observation, task, random_bits[0], jnp.int32(step), no_action(task))
            )
            action = jnp.asarray(seen @ kernel + bias)
            state, observation, reward, _ = task.simulator.step(state, action)
            returns[i, e] += float(reward)
    return returns.mean(1)


@pytest.mark.parametrize(("distractors", "episodes"), [(0, 2), (1, 1)])
def test_fitness_is_that_of_a_plain_loop(distractors, episodes):
    rules = {"distractors": distractors, "episodes_per_member": episodes}
    stacked = members(linear(make_task("probe/linear", distractors=distractors)))
    evaluation = played("probe/linear", scale=1.0, **rules)
    np.testing.assert_allclose(evaluation.fitness, plain_returns(stacked, **rules), rtol=1e-4)


def test_a_member_does_not_depend_on_how_many_play_beside_it():
    rules = {"distractors": 1, "episodes_per_member": 1, "scale": 1.0}
    few = played("probe/linear", num_members=3, **rules)
    many = played("probe/linear", **rules)
    np.testing.assert_allclose(few.fitness, many.fitness[:3], rtol=1e-6)


# --------------------------------------------------------------------------------- ambient settings


def everything(name):
    """Evaluation, not cached, of all that draws numbers: resets, distractors, action noise."""
    rules = {"num_members": MEMBERS, "episodes_per_member": 2, "action_noise": 0.1, "num_envs": 4}
    task = make_task(name, distractors=2, horizon=20)
    policy = linear(task, uses_moments=True)
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, jnp.float32), policy.init(KEY))
    evaluate = jax.jit(make_evaluate(task, policy, **rules))
    return evaluate(KEY, replicate(params), Moments.empty(task.num_features))


@pytest.mark.bits
@pytest.mark.parametrize(
    "name",
    [
        "probe/linear",
        pytest.param("probe/countdown", marks=pytest.mark.slow),
        pytest.param("gymnax/Asterix-MinAtar", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_come_out_whatever_jax_is_set_to(name):
    expected = everything(name)
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):
        evaluation = everything(name)
    jax.tree.map(np.testing.assert_array_equal, evaluation, expected)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(evaluation)]
    assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(expected)]


def test_keys_of_any_generator_give_every_episode_its_own():
    """Of a batch of keys of ``rbg`` JAX draws by the first alone."""
    keys = [
        episode_keys(jax.random.key(0, impl="rbg"), i, jnp.int32(0), common_random_numbers=False)
        for i in jnp.arange(4, dtype=jnp.int32)
    ]
    alone = [jax.random.uniform(reset) for reset, _ in keys]
    assert len(np.unique(alone)) == 4
    together = jax.vmap(jax.random.uniform)(jnp.stack([reset for reset, _ in keys]))
    np.testing.assert_array_equal(together, alone)


# ----------------------------------------------------------------------------- keys of an episode


def key_words(key):
    return tuple(jax.random.key_data(key).tolist())


def keys_of(i, e, common=True):
    keys = episode_keys(KEY, jnp.int32(i), jnp.int32(e), common_random_numbers=common)
    return [key_words(key) for key in keys]


def test_a_mirrored_pair_shares_its_resets_and_nothing_else():
    episodes = [(i, e) for i in range(4) for e in range(2)]
    resets, streams = zip(*(keys_of(*episode) for episode in episodes), strict=True)
    assert len({*resets}) == 4 and len({*streams}) == 8 and not {*resets} & {*streams}
    for e in range(2):
        assert keys_of(0, e)[0] == keys_of(1, e)[0] != keys_of(2, e)[0] == keys_of(3, e)[0]


def test_without_common_random_numbers_every_episode_has_its_own_reset():
    assert len({keys_of(i, e, common=False)[0] for i in range(4) for e in range(2)}) == 8


# many episodes, so that the cost of the noise shows; its steps are those of the shared resets
noisy = functools.partial(
    played,
    "probe/countdown",
    episodes_per_member=40,
    common_random_numbers=True,
    action_noise=0.1,
)


def test_common_random_numbers_reach_the_simulator():
    steps = noisy().steps
    assert steps.tolist() == lengths(40, common_random_numbers=True).sum(1).tolist()
    assert (steps[0::2] == steps[1::2]).all() and len(np.unique(steps)) == MEMBERS // 2


def test_action_noise_reaches_the_simulator():
    """Doing nothing pays the length; noise of variance s² on the action costs about s² a step."""
    evaluation = noisy()
    steps = int(evaluation.steps.sum())
    cost = (steps - 40 * float(evaluation.fitness.sum())) / steps
    standard_error = 0.1**2 * np.sqrt(2 / steps)
    assert abs(cost - 0.1**2) < STANDARD_ERRORS * standard_error


def test_the_policies_see_the_distractors():
    """In the program that was compared with the masked scan."""
    observed = played("probe/countdown", scale=1.0, **MASKED).observed
    number, irrelevant = float(observed.number), slice(2, None)
    assert number > 100 and observed.mean.shape == (4,)
    assert (abs(observed.mean[irrelevant]) < STANDARD_ERRORS / np.sqrt(number)).all()
    variances = observed.deviation[irrelevant] / number
    assert (abs(variances - 1) < STANDARD_ERRORS * np.sqrt(2 / number)).all()


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("name", ["mjx/inverted_pendulum", "playground/CartpoleBalance"])
def test_an_evaluation_keeps_nothing_from_call_to_call(name):
    """Its program has no effects: what a resumed run needs is all in the run's state, as with the
    suites in JAX whose resumes are compared bit for bit."""
    task = make_task(name, horizon=3)
    policy = make_policy(task)
    evaluate = make_evaluate(task, policy, num_members=2)
    population = replicate(policy.init(KEY))
    jaxpr = jax.make_jaxpr(lambda key: evaluate(key, population, None))(KEY)
    assert not jaxpr.effects and jaxpr.jaxpr.eqns
