"""The queue of episodes: who plays what when, and what is held meanwhile."""

import functools
import heapq

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax.envs import episode_queue
from nesht_jax.envs.episode_queue import default_num_envs
from nesht_jax.envs.rollout import episode_keys, make_pure_evaluate
from nesht_jax.envs.tasks import make_task
from nesht_jax.types import Moments, Policy, Population

KEY = jax.random.key(11)
MEMBERS, EPISODES = 6, 3


def linear(task):
    def init(key):
        return {"kernel": jax.random.normal(key, (task.num_features, task.num_actions))}

    return Policy(init, lambda params, moments, x: x @ params["kernel"], uses_moments=True)


def pick(stacked, i):
    return jax.tree.map(lambda x: x[i], stacked)


@functools.cache
def evaluation_of(num_envs=None, episodes_per_member=EPISODES):
    """What plays random members of the countdown; compiled once for all tests."""
    task = make_task("probe/countdown")
    policy = linear(task)
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), MEMBERS))
    evaluate = make_pure_evaluate(
        task,
        policy,
        num_members=MEMBERS,
        episodes_per_member=episodes_per_member,
        num_envs=num_envs,
    )
    population = Population(Partial(pick, stacked))
    return jax.jit(lambda key: evaluate(key, population, Moments.empty(2)))


@functools.cache
def lengths():
    """Lengths of the countdown's episodes, straight from their reset keys: [m, episodes]."""
    reset = make_task("probe/countdown").simulator.reset
    pairs = np.ndindex(MEMBERS, EPISODES)
    keys = [
        episode_keys(KEY, jnp.int32(i), jnp.int32(e), common_random_numbers=False)[0]
        for i, e in pairs
    ]
    return np.asarray(jax.vmap(reset)(jnp.stack(keys))[0]).reshape(MEMBERS, EPISODES)


def rounds_of(lengths, num_envs):
    """Of the greedy schedule: whoever is free first takes the next episode."""
    free = [0] * num_envs
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


@pytest.mark.parametrize("num_envs", [1, 4, 17, 100])
def test_an_environment_whose_episode_ends_takes_the_next(num_envs):
    evaluation, num_envs = evaluation_of(num_envs)(KEY), min(num_envs, EPISODES * MEMBERS)
    rounds = rounds_of(lengths().ravel(), num_envs)
    assert evaluation.simulated_steps == num_envs * rounds
    assert evaluation.steps.tolist() == lengths().sum(1).tolist()


def test_members_regenerated_as_they_begin_are_those_that_are_stored(monkeypatch):
    stored = evaluation_of(4)(KEY)
    monkeypatch.setattr(episode_queue, "STORED_ENTRIES", 0)
    evaluation_of.cache_clear()
    jax.tree.map(np.testing.assert_array_equal, evaluation_of(4)(KEY), stored)
    evaluation_of.cache_clear()


def test_no_population_is_stored_beyond_the_bound(monkeypatch):
    """Nothing in the program is as large as the population."""
    monkeypatch.setattr(episode_queue, "STORED_ENTRIES", 0)
    task = make_task("probe/countdown", distractors=20)
    policy = linear(task)._replace(uses_moments=False)
    evaluate = make_pure_evaluate(task, policy, num_members=64, num_envs=2)
    params = policy.init(KEY)
    shifted = Partial(lambda params, i: jax.tree.map(lambda p: p + i, params), params)
    jaxpr = jax.make_jaxpr(lambda key: evaluate(key, Population(shifted), None))(KEY)
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
        return [default_num_envs(n, terminates=terminates) for n in episodes]

    assert usual(1, 8, 256, 512, 4096) == [1, 8, 8, 16, 64]
    assert usual(1, 64, 65, 100, 256, terminates=False) == [1, 64, 33, 50, 64]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert usual(1, 256, 10**6) == [1, 256, 4096]
    assert usual(4096, 5000, terminates=False) == [4096, 2500]


@pytest.mark.slow
def test_a_queue_may_be_vmapped():
    evaluate, keys = evaluation_of(2, 1), jax.random.split(KEY, 3)
    together = jax.vmap(evaluate)(keys)
    for i, key in enumerate(keys):
        alone = evaluate(key)
        assert together.steps[i].tolist() == alone.steps.tolist()
        np.testing.assert_allclose(together.fitness[i], alone.fitness, rtol=1e-6)
