"""The formulas that a run prints, against the policy that it plays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax import load
from nesht_jax.envs.tasks import make_task
from nesht_jax.policy.policy import make_policy
from nesht_jax.run.build import build_policy
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.reading import reading
from nesht_jax.run.sections import PolicyConfig
from nesht_jax.types import Moments

INF = np.inf
WORDS = {"tanh": np.tanh, "clip": np.clip, "inf": INF}


def computed(reads, observation):
    """Σ of the reading's weights, through its formulas."""
    sums = observation @ reads.weights + reads.biases
    lines = [f.format("x").replace(" tanh", " * tanh") for f in reads.formulas]
    return [eval(line, {}, WORDS | {"x": x}) for line, x in zip(lines, sums, strict=True)]


@pytest.mark.filterwarnings("ignore:.*with output tanh, action 0 reaches:UserWarning")
@pytest.mark.parametrize("output", ["scale", "clip", "tanh"])
@pytest.mark.parametrize("bounds", [(-1, 1), (-2, 2), (-0.5, 3), (-INF, INF), (0, INF)])
def test_formulas_are_what_the_policy_does(output, bounds):
    task = make_task("probe/linear", distractors=1)
    low, high = np.array([bounds], np.float32).T
    task = dataclasses.replace(task, action_low=low, action_high=high)
    config = Config(task="probe/linear", policy=PolicyConfig(output=output, normalization="none"))
    policy = build_policy(config, task)
    params = jax.tree.map(
        lambda x: np.linspace(-2, 1.5, x.size, dtype=np.float32).reshape(x.shape),
        policy.init(jax.random.key(0)),
    )
    reads = reading(config, task, policy, params)
    for observation in np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32):
        acted = policy.apply(params, Moments.empty(10), jnp.asarray(observation))
        np.testing.assert_allclose(computed(reads, observation), acted, rtol=2e-6, atol=1e-6)


def test_hidden_units_have_no_formula():
    task = make_task("probe/linear")
    policy = make_policy(task, hidden=(3,))
    config = Config(task="probe/linear", policy=PolicyConfig(hidden=(3,)))
    reads = reading(config, task, policy, policy.init(jax.random.key(0)))
    assert reads.motors == ("unit 0", "unit 1", "unit 2") and reads.formulas == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "standard deviations, at most ±5"),
        ({"clip": INF}, "standard deviations"),
        ({"normalization": "observation"}, "in their standard deviation"),
        ({"normalization": "none"}, "as the simulator shows it"),
    ],
)
def test_units(given, words):
    task = make_task("probe/linear")
    config = Config(task="probe/linear", policy=PolicyConfig(**given))
    policy = build_policy(config, task)
    told = reading(config, task, policy, policy.init(jax.random.key(0))).units
    assert told.endswith(words)


def test_choices_say_what_becomes_of_them():
    task = make_task("envpool/CartPole-v1")
    config = Config(task=task.name)
    policy = build_policy(config, task)
    reads = reading(config, task, policy, policy.init(jax.random.key(0)))
    assert reads.law() == ["left = 0", "right = 0"] and reads.units.startswith("the highest is")
    drawn = dataclasses.replace(config, policy=PolicyConfig(output="sample"))
    reads = reading(drawn, task, policy, policy.init(jax.random.key(0)))
    assert reads.units.startswith("one is drawn by their softmax; ")


@pytest.mark.slow
def test_a_loaded_policy_knows_its_names(probe_run):
    policy = load(probe_run.folder)
    assert policy.reading.sensors == policy.task.feature_names
    assert policy.config.distractors == 3
    assert policy.reading.weights_by_segment == probe_run.reading.weights_by_segment


def test_eval_prints_the_law_and_json_holds_it(probe_run, capsys):
    assert main(["eval", str(probe_run.folder), "--episodes=2"]) == 0
    said = capsys.readouterr().out
    assert probe_run.reading.verdict() in said
    for line in probe_run.reading.law():
        assert line in said
