"""A horizon that a call is given cuts as the task's own does, in every suite."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax import make_evaluate, make_policy, make_task
from nesht_jax.types import HostEvaluate, Population

TASKS = [
    "probe/countdown",
    "gymnax/Pendulum-v1",
    "gymnasium/Pendulum-v1",
    "envpool/Hopper-v5",
    "envpool/Pendulum-v1",
    "mjx/inverted_pendulum",
    pytest.param(
        "brax/inverted_pendulum",
        marks=[
            pytest.mark.filterwarnings("ignore:Brax System:UserWarning"),
            pytest.mark.filterwarnings("ignore:Accessing .* directly:DeprecationWarning"),
        ],
    ),
]

MEMBERS = 6


def played(task, horizon=None, **rules):
    """Two calls of one evaluate, on a population whose members differ."""
    policy = make_policy(task)
    params = policy.init(jax.random.key(3))

    def draw(i):
        key = jax.random.fold_in(jax.random.key(4), i)
        return jax.tree.map(lambda x: x + jax.random.normal(key, x.shape, x.dtype), params)

    evaluate = make_evaluate(task, policy, num_members=MEMBERS, **rules)
    cut = {} if horizon is None else {"horizon": jnp.int32(horizon)}
    try:
        return [
            evaluate(jax.random.key(call), Population(jax.tree_util.Partial(draw)), None, **cut)
            for call in range(2)
        ]
    finally:
        if isinstance(evaluate, HostEvaluate):
            evaluate.close()


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("name", TASKS)
def test_a_call_is_cut_as_a_task_of_that_horizon_is(name):
    task = make_task(name, distractors=1, horizon=20)
    for ours, theirs in zip(played(task, 7), played(replace(task, horizon=7)), strict=True):
        np.testing.assert_array_equal(ours.steps, theirs.steps)
        np.testing.assert_allclose(ours.fitness, theirs.fitness, rtol=1e-5, atol=1e-5)
        assert int(ours.steps.max()) <= 7
    (whole, _), (asked, _) = played(task), played(task, 1000)
    np.testing.assert_array_equal(whole.steps, asked.steps)
    np.testing.assert_array_equal(whole.fitness, asked.fitness)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe/countdown", "envpool/Hopper-v5"])
def test_without_the_alive_bonus_too(name):
    task = make_task(name, horizon=20)
    first, _ = played(task, 5, alive_bonus=False)
    whole, _ = played(replace(task, horizon=5), alive_bonus=False)
    np.testing.assert_allclose(first.fitness, whole.fitness, rtol=1e-5)


def test_one_program_serves_every_horizon():
    task = make_task("gymnax/Pendulum-v1", horizon=20)
    policy = make_policy(task)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS)
    params = policy.init(jax.random.key(0))
    traces = []

    @jax.jit
    def steps(horizon):
        traces.append(horizon)
        population = Population(jax.tree_util.Partial(lambda i: params))
        return evaluate(jax.random.key(0), population, None, horizon=horizon).steps

    assert [int(steps(jnp.int32(h))[0]) for h in (3, 9, 30)] == [3, 9, 20]
    assert len(traces) == 1
