"""Shares of simulators outside JAX, in one process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax import Evaluation, Population, make_mesh, make_task, replicate
from nesht_jax.run.build import build, build_training, default_shares
from nesht_jax.run.config import Config
from nesht_jax.run.host_shares import HostShares
from nesht_jax.run.sections import AgentConfig, AlgorithmConfig, PolicyConfig, SearchConfig
from nesht_jax.types import HostEvaluate, Moments


class Part:
    """Gives every member its params as fitness."""

    def __init__(self, share):
        self.share, self.calls, self.closed, self.first = share, 0, False, None

    def seek(self, calls):
        self.calls = calls

    def close(self):
        self.closed = True

    def __call__(self, key, population, moments, *, horizon=None):
        self.first = int(population.first)
        fitness = jnp.array([population(i) for i in range(2)], jnp.float32)
        observed = Moments(jnp.float32(1), jnp.full(1, self.share, jnp.float32), jnp.zeros(1))
        fell = jnp.array([[self.share, 0], [1, 2]], jnp.int32)
        return Evaluation(fitness, jnp.ones(2, jnp.int32), jnp.int32(5), observed, fell)


def test_shares_are_joined_in_their_order():
    parts = []

    def make(share):
        parts.append(Part(share))
        return parts[-1]

    shares = HostShares(make, size=2, shares=4, mesh=make_mesh(4))
    assert isinstance(shares, HostEvaluate)
    population = Population(jax.tree_util.Partial(lambda i: 10.0 * i))
    for _ in range(3):
        played = shares(jax.random.key(0), population, None)
    np.testing.assert_array_equal(played.fitness, 10.0 * np.arange(8))
    assert played.steps.sum() == 8 and played.simulated_steps == 20
    assert played.observed.number == 4 and played.observed.mean == 1.5
    expected = [[0, 0], [1, 2], [1, 0], [1, 2], [2, 0], [1, 2], [3, 0], [1, 2]]
    np.testing.assert_array_equal(played.terminated_at, expected)
    assert [part.first for part in parts] == [0, 2, 4, 6]
    shares.seek(7)
    shares.close()
    assert all(part.calls == 7 and part.closed for part in parts)


def config_of(task="gymnasium/CartPole-v1", **changes):
    usual = {"algorithm": AlgorithmConfig(num_members=8), "horizon": 20, "distractors": 1}
    return Config(task=task, **usual | changes)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["envpool/Pendulum-v1", "gymnasium/Pendulum-v1"])
def test_every_share_has_resets_of_its_own(task):
    """The same weights in every member, and no distractors: resets alone differ."""
    config = config_of(task, shares=4, horizon=200, distractors=0)
    experiment = build(config)
    evaluate = build_training(config, experiment)
    params = jax.tree.map(lambda x: x + 0.3, experiment.state.params)
    empty = Moments.empty(experiment.task.num_features)
    played = evaluate(jax.random.key(1), replicate(params), empty)
    evaluate.close()
    returns = played.fitness.reshape(4, 2).tolist()
    assert len({tuple(pair) for pair in returns}) == 4


@pytest.mark.parametrize("task", ["gymnasium/CartPole-v1", "probe/linear"])
def test_one_device_takes_one_share(task):
    assert build(config_of(task)).config.shares == 1


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 4),
        ({"algorithm": AlgorithmConfig(num_members=24)}, 4),
        ({"algorithm": AlgorithmConfig(num_members=8, mirrored=False)}, 8),
        ({"search": SearchConfig(("mask",), num_center=3)}, 1),
        ({"search": SearchConfig(("mask",), num_center=4)}, 2),
        (
            {
                "agent": AgentConfig("dqn"),
                "policy": PolicyConfig(
                    hidden=(8,), activation="relu", normalization="none", output="scale"
                ),
            },
            1,
        ),
    ],
)
def test_the_most_shares_leave_pairs_together(changes, most, monkeypatch):
    config = config_of("gymnax/CartPole-v1", **changes)
    assert config.most_shares == most
    monkeypatch.setattr(jax, "device_count", lambda: 24)
    assert default_shares(config, make_task("gymnax/CartPole-v1")) == most
