"""Tasks by name: one value, made once, and what every suite owes it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nesht_jax.envs import catalog, tasks
from nesht_jax.envs.suite import Suite
from nesht_jax.envs.tasks import (
    make_environment,
    make_evaluate,
    make_task,
    make_vector,
    reference_observations,
    suite_of,
    task_names,
)
from nesht_jax.policy.policy import make_policy


@pytest.fixture
def no_envpool(monkeypatch):
    monkeypatch.setattr(tasks.catalog, "installed", lambda suite: suite != "envpool")


def test_distractors_and_horizon_are_part_of_the_task():
    task = make_task("probe/linear", distractors=3, horizon=7)
    assert (task.name, task.distractors, task.horizon) == ("probe/linear", 3, 7)
    assert (task.observation_size, task.num_features, task.num_actions) == (5, 20, 1)
    assert make_task("probe/linear").horizon == 10


@pytest.mark.parametrize(
    ("name", "rules", "message"),
    [
        ("probe/linear", {"distractors": -1}, "distractors must not be negative, got -1"),
        ("probe/linear", {"horizon": 0}, "horizon must be at least 1"),
        (
            "gymnax/Pendulum-v1",
            {"options": {"max_steps_in_episode": 0}},
            "gymnax/Pendulum-v1: its options cut episodes after 0 steps",
        ),
        ("probe/linear", {"options": {"a": 1}}, "probe/linear has no options"),
        ("probe/liner", {}, "unknown task 'probe/liner'; did you mean probe/linear"),
        ("mujoco/hopper", {}, "unknown suite 'mujoco'"),
        ("Hopper", {}, "'Hopper' needs the name of its suite: Hopper is in envpool/Hopper-v4"),
        ("mjx/CartPole-v1", {}, "CartPole-v1 is in envpool/CartPole-v1"),
        ("gymnasium/nowhere:Mine-v0", {}, "needs the module 'nowhere'"),
    ],
)
def test_what_makes_no_task_is_told(name, rules, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **rules)


def test_a_task_of_a_module_keeps_its_whole_name(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = "gymnasium/bug_tasks:bug/Plain-v0"
    task = make_task(name, options={"disable_env_checker": True})
    assert task.name == name and suite_of(task).host_evaluate is not None


@pytest.mark.parametrize("suite", ["probe", "gymnasium", "envpool"])
def test_every_suite_is_one_record(suite):
    names = task_names(suite)
    assert isinstance(suite_of(make_task(names[0], horizon=30)), Suite)
    assert all(name.startswith(f"{suite}/") for name in names)


def test_a_task_without_a_limit_wants_a_horizon():
    task = dataclasses.replace(make_task("probe/linear"), horizon=None)
    with pytest.raises(ValueError, match="probe/linear has no time limit of its own: set horizon"):
        make_evaluate(task, make_policy(task), num_members=2)


def test_actions_are_not_drawn_twice():
    task = make_task("gymnasium/CartPole-v1")
    policy = make_policy(task, output="sample")
    with pytest.raises(ValueError, match="action_noise must be 0"):
        make_evaluate(task, policy, num_members=2, action_noise=0.1)


def test_each_kind_of_simulator_is_stepped_in_its_own_way():
    inside, outside = make_task("probe/linear"), make_task("gymnasium/CartPole-v1")
    assert make_environment(inside) is inside.simulator
    with pytest.raises(ValueError, match="steps outside JAX: make_vector"):
        make_environment(outside)
    with pytest.raises(ValueError, match="is written in JAX: vmap the step"):
        make_vector(inside, num_envs=2)
    vector = make_vector(outside, num_envs=2, seed=1)
    seen = vector.reset(np.arange(2))
    step = vector.step(np.zeros((2, 2), np.float32), np.arange(2))
    vector.close()
    assert seen.shape == step.observation.shape == (2, 4) and (step.reward == 1).all()


def test_reference_observations_are_of_host_suites():
    task = make_task("gymnasium/CartPole-v1", distractors=2)
    assert reference_observations(task, number=5, seed=0).shape == (5, 12)
    with pytest.raises(ValueError, match="which probe/linear has not"):
        reference_observations(make_task("probe/linear"), number=5, seed=0)


# ---------------------------------------------------------------------------- without envpool


def test_gymnasium_plays_the_tasks_of_an_envpool_that_is_not_there(no_envpool):
    with pytest.warns(UserWarning, match="gymnasium/Hopper-v5 plays instead of envpool/Hopper-v5"):
        task = make_task("envpool/Hopper-v5", distractors=1)
    assert task.name == "gymnasium/Hopper-v5" and task.num_features == 22


def test_what_only_envpool_has_is_told_with_its_remedy(no_envpool):
    with pytest.raises(ValueError, match="envpool/Pong-v5 needs envpool: pip install envpool"):
        make_task("envpool/Pong-v5")
    with pytest.raises(ValueError, match="num_threads is an option of envpool"):
        make_task("envpool/Hopper-v5", options={"num_threads": 2})


@pytest.mark.parametrize("suite", ["brax", "gymnax", "playground"])
def test_a_missing_package_is_told_with_its_remedy(suite, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module", name=suite)

    monkeypatch.setattr(tasks.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=f"needs the package '{suite}': pip install") as error:
        task_names(suite)
    assert catalog.REMEDIES[suite] in str(error.value)
