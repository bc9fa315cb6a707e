"""Probes: the answer is worth what it says, and nothing is worth more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.envs import probe
from nesht_jax.envs.tasks import make_evaluate, make_task, task_names
from nesht_jax.types import Policy, replicate

KEY = jax.random.key(11)


def fitness_of(name, *kernels):
    """Of linear policies without bias, all from the same keys."""
    task, members = make_task(name), 6
    policy = Policy(lambda key: None, lambda kernel, moments, x: (x @ kernel)[None])
    evaluate = jax.jit(make_evaluate(task, policy, num_members=members, episodes_per_member=2))
    return [evaluate(KEY, replicate(jnp.array(kernel)), None).fitness for kernel in kernels]


def test_the_answer_of_linear_is_worth_zero_and_nothing_is_worth_more():
    others = np.tile(np.array(probe.LINEAR_WEIGHTS), (5, 1)) * (1 - 0.1 * np.eye(5))
    best, *worse = fitness_of("probe/linear", probe.LINEAR_WEIGHTS, *others)
    np.testing.assert_allclose(best, np.zeros(6), atol=1e-5)
    for fitness in worse:
        assert (fitness < best).all()


def test_doing_nothing_is_the_answer_of_countdown():
    nothing, little = fitness_of("probe/countdown", [0.0, 0.0], [0.1, -0.2])
    assert (little < nothing).all()


@pytest.mark.parametrize("name", task_names("probe"))
def test_every_probe_is_as_its_task_says(name):
    task = make_task(name)
    assert task.name == name
    assert len(task.feature_names) == task.observation_size
    state, observation = task.simulator.reset(KEY)
    transition = task.simulator.step(state, jnp.zeros(task.num_actions))
    assert observation.shape == transition.observation.shape == (task.observation_size,)


def test_an_option_no_probe_has_is_refused():
    with pytest.raises(ValueError, match="probe/linear has no options, got 'speed'"):
        make_task("probe/linear", options={"speed": 3})
    with pytest.raises(ValueError, match="has no option 'time_limit': set horizon"):
        make_task("probe/linear", options={"time_limit": 3})


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("prob/linear", "unknown suite 'prob'.*probe"),
        ("probe/lineer", "unknown task 'probe/lineer'.*probe/linear"),
        ("linear", "task 'linear' needs the name of its suite: linear is in probe/linear"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest(name, match):
    with pytest.raises(ValueError, match=match):
        make_task(name)
