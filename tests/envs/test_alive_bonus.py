"""What tasks pay for being alive, and fitness without it."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax.envs.alive_bonus import without_alive_bonus
from nesht_jax.envs.tasks import make_evaluate, make_task
from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Evaluation, HostEvaluate, Moments, Population, replicate

KEY = jax.random.key(4)
MEMBERS = 6

needs_envpool = pytest.mark.skipif(
    not importlib.util.find_spec("envpool"), reason="envpool has no wheel for this platform"
)
brax = [
    pytest.mark.slow,
    # Brax 0.14.2, 2026: says itself that it is unmaintained
    pytest.mark.simulator,
    pytest.mark.filterwarnings("ignore:Brax System:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing .* directly from `Data`:DeprecationWarning"),
]


def told(name, bonus, options=None, marks=()):
    marks = [needs_envpool] if name.startswith("envpool") else marks
    return pytest.param(name, options or {}, bonus, marks=marks)


@pytest.mark.parametrize(
    ("name", "options", "bonus"),
    [
        told("envpool/Hopper-v4", 1.0),
        told("envpool/Hopper-v5", 1.0),
        told("envpool/Ant-v5", 1.0),
        told("envpool/Humanoid-v5", 5.0),
        told("envpool/Humanoid-v5", 2.5, {"healthy_reward": 2.5}),
        told("envpool/Hopper-v5", 0.0, {"healthy_reward": 0.0}),
        told("envpool/HalfCheetah-v5", 0.0),
        told("envpool/InvertedPendulum-v5", 0.0),
        told("envpool/InvertedDoublePendulum-v5", 0.0),
        told("envpool/Pong-v5", 0.0),
        told("gymnasium/Hopper-v4", 1.0),
        told("gymnasium/Hopper-v5", 1.0),
        told("gymnasium/Ant-v5", 1.0),
        told("gymnasium/Humanoid-v5", 5.0),
        told("gymnasium/Humanoid-v5", 2.0, {"healthy_reward": 2.0}),
        told("gymnasium/Hopper-v5", 0.0, {"healthy_reward": 0.0}),
        told("gymnasium/HalfCheetah-v5", 0.0),
        told("gymnasium/InvertedPendulum-v5", 0.0),
        told("gymnasium/InvertedDoublePendulum-v5", 0.0),
        told("gymnasium/CartPole-v1", 0.0),
        told("brax/hopper", 1.0, marks=brax),
        told("brax/hopper", 0.5, {"healthy_reward": 0.5}, marks=brax),
        told("brax/inverted_pendulum", 0.0, marks=brax),
        told("mjx/hopper", 1.0),
        told("mjx/ant", 1.0),
        told("mjx/humanoid", 5.0),
        told("mjx/halfcheetah", 0.0),
        told("mjx/humanoidstandup", 0.0),
        told("gymnasium/HumanoidStandup-v5", 0.0),
        told("envpool/HumanoidStandup-v5", 0.0, marks=needs_envpool),
        told("mjx/inverted_pendulum", 0.0),
        told("mjx/inverted_double_pendulum", 0.0),
        told("probe/linear", 0.0),
        told("probe/countdown", 0.0),
    ],
)
def test_a_task_tells_what_it_pays_for_being_alive(name, options, bonus):
    task = make_task(name, options=options)
    assert type(task.alive_bonus) is float and task.alive_bonus == bonus


def population_of(policy):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), MEMBERS))
    return Population(Partial(lambda x, i: jax.tree.map(lambda x: x[i], x), stacked))


def play(task, policy, **rules):
    evaluate = make_evaluate(task, policy, num_members=MEMBERS, **rules)
    moments = Moments.empty(task.num_features) if policy.uses_moments else None
    if not isinstance(evaluate, HostEvaluate):
        return jax.jit(evaluate)(KEY, population_of(policy), moments)
    played = evaluate(KEY, population_of(policy), moments)
    evaluate.close()
    return played


HOSTS = [pytest.param("envpool", marks=needs_envpool), "gymnasium"]


# ------------------------------------------------------------------------ fitness without the bonus


@pytest.mark.slow
def test_every_step_of_an_episode_costs_the_bonus():
    task = dataclasses.replace(make_task("probe/countdown"), alive_bonus=0.5)
    policy = make_policy(task, normalize=by_running_moments())
    paid, bare = (
        play(task, policy, episodes_per_member=2, alive_bonus=alive) for alive in (True, False)
    )
    assert len(set(np.asarray(paid.steps))) > 2
    expected = np.asarray(paid.fitness) - 0.5 * np.asarray(paid.steps) / 2
    np.testing.assert_allclose(bare.fitness, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, bare._replace(fitness=0), paid._replace(fitness=0))


@pytest.mark.parametrize("suite", HOSTS)
def test_every_step_of_a_host_simulator_costs_its_bonus(suite):
    task = make_task(f"{suite}/Hopper-v5", horizon=15, options={"healthy_reward": 2.5})
    policy = make_policy(task)
    rules = {"episodes_per_member": 2, "seed": 3}
    paid, bare = (play(task, policy, alive_bonus=alive, **rules) for alive in (True, False))
    expected = np.asarray(paid.fitness) - 2.5 * np.asarray(paid.steps) / 2
    np.testing.assert_allclose(bare.fitness, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bare.steps, paid.steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe/countdown", "gymnasium/CartPole-v1"])
def test_without_a_bonus_fitness_is_what_it_was(name):
    task = make_task(name)
    policy = make_policy(task)
    found = [play(task, policy, alive_bonus=alive).fitness for alive in (True, False)]
    np.testing.assert_array_equal(*found)


ROBOTS = [
    told(f"{suite}/{robot}-{version}", bonus)
    for suite in ("envpool", "gymnasium")
    for version in ("v4", "v5")
    for robot, bonus in (("Hopper", 1.0), ("Walker2d", 1.0), ("Ant", 1.0), ("Humanoid", 5.0))
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "bonus"), [*ROBOTS, told("brax/hopper", 1.0, marks=brax)]
)
def test_a_fall_costs_the_same_whether_or_not_its_step_is_paid(name, options, bonus):
    """Beside the simulator that is told to pay no bonus at all."""
    horizon = 60
    ours, theirs = (
        make_task(name, horizon=horizon, options=options | more)
        for more in ({}, {"healthy_reward": 0.0})
    )
    policy = make_policy(ours, output="clip")
    option = play(theirs, policy, seed=3)
    for most in (1, 40):
        bare = play(ours, policy, alive_bonus=False, fall_cost=most, seed=3)
        np.testing.assert_array_equal(bare.steps, option.steps)
        fell, steps = np.asarray(bare.terminated_at)[:, 0] > 0, np.asarray(bare.steps)
        assert fell.any() and fell[steps < horizon].all()
        lost = np.asarray(option.fitness) - np.asarray(bare.fitness)
        cost = bonus * np.maximum(most + 1 - steps, 1)
        # envpool says only that time is up, also where the robot falls in the last step
        may_fall = (steps == horizon) & ~fell & name.startswith("envpool")
        fell |= may_fall & (lost > cost / 2)
        np.testing.assert_allclose(lost, np.where(fell, cost, 0), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "horizon"),
    [
        ("probe/countdown", 10),
        pytest.param("envpool/Hopper-v4", 25, marks=needs_envpool),
        ("gymnasium/Hopper-v4", 25),
    ],
)
def test_an_episode_is_over_where_it_terminates_or_at_the_horizon(name, horizon):
    task = make_task(name, horizon=horizon)
    played = play(task, make_policy(task, output="clip"), episodes_per_member=3, seed=3)
    at = np.asarray(played.terminated_at)
    assert at.shape == (MEMBERS, 3) and 0 < (at > 0).sum() < at.size
    np.testing.assert_array_equal(played.steps, np.where(at > 0, at, horizon).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("bonus", [0.5, 0.0])
def test_each_fall_of_a_member_costs_what_it_missed(bonus):
    task = dataclasses.replace(make_task("probe/countdown"), alive_bonus=bonus)
    policy = make_policy(task)
    cheap, dear = (
        play(task, policy, episodes_per_member=3, alive_bonus=False, fall_cost=most)
        for most in (1, 6)
    )
    at = np.asarray(cheap.terminated_at)
    missed = np.maximum(6 - at, 0)
    assert (missed.min(1) != missed.max(1)).any() and (at > 6).any()
    expected = np.asarray(cheap.fitness) - bonus * missed.sum(1) / 3
    np.testing.assert_allclose(dear.fitness, expected, rtol=1e-6)


def test_a_fall_costs_one_bonus_at_least():
    task = make_task("probe/countdown")
    with pytest.raises(ValueError, match="fall_cost must be at least 1, got 0"):
        make_evaluate(task, make_policy(task), num_members=2, fall_cost=0)


# -------------------------------------------------------------------------------- on the host


@pytest.mark.parametrize("suite", HOSTS)
def test_a_host_evaluate_stays_one(suite):
    """Call number 0 is the same call again after ``seek``, with the bonus and without."""
    task = make_task(f"{suite}/Hopper-v4", horizon=10)
    policy = make_policy(task)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS, alive_bonus=False, seed=5)
    assert isinstance(evaluate, HostEvaluate)
    population = population_of(policy)
    first, second = (evaluate(KEY, population, None).fitness for _ in range(2))
    evaluate.seek(0)
    np.testing.assert_array_equal(evaluate(KEY, population, None).fitness, first)
    evaluate.seek(1)
    np.testing.assert_array_equal(evaluate(KEY, population, None).fitness, second)
    evaluate.close()


def test_seek_and_close_reach_the_simulator():
    class Simulated:
        def __init__(self):
            self.asked = []

        def __call__(self, key, population, moments):
            fitness = jnp.array([9.0, jnp.nan, -jnp.inf, 2.0])
            terminated_at = jnp.array([[0, 3], [0, 0], [0, 0], [0, 0]])
            steps = jnp.array([4, 3, 2, 0])
            return Evaluation(fitness, steps, jnp.int32(9), moments, terminated_at)

        def seek(self, calls):
            self.asked.append(calls)

        def close(self):
            self.asked.append("close")

    simulated = Simulated()
    evaluate = without_alive_bonus(simulated, 0.5, 0.25, 7)
    assert isinstance(evaluate, HostEvaluate)
    evaluate.seek(7)
    played = evaluate(KEY, replicate(jnp.zeros(1)), Moments.empty(3))
    evaluate.close()
    assert simulated.asked == [7, "close"]
    np.testing.assert_array_equal(played.fitness, [4.75, np.nan, -np.inf, 2.0])
    assert played.simulated_steps == 9 and played.observed.mean.shape == (3,)


def test_a_pure_evaluate_stays_pure():
    task = dataclasses.replace(make_task("probe/countdown"), alive_bonus=1.0)
    policy = make_policy(task)
    evaluate = make_evaluate(task, policy, num_members=2, alive_bonus=False)
    assert not isinstance(evaluate, HostEvaluate)
    shapes = jax.eval_shape(evaluate, KEY, replicate(policy.init(KEY)), None)
    assert shapes.fitness.shape == (2,) and shapes.fitness.dtype == jnp.float32
