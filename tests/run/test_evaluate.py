"""Evaluation: a function of its seed, and of a policy that changes suites."""

from dataclasses import replace

import numpy as np
import pytest

from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, PolicyConfig
from nesht_jax.run.train import train

STANDARD_ERRORS = 5


@pytest.mark.slow
def test_an_evaluation_is_a_function_of_its_seed(probe_run):
    again, same, other = (
        evaluate_run(probe_run.folder, episodes=20, seed=seed)._replace(reading=None)
        for seed in (3, 3, 4)
    )
    assert again == same != other


@pytest.mark.slow
def test_noise_on_what_is_seen_costs_a_trained_policy_the_more_the_larger_it_is(probe_run):
    means = [
        evaluate_run(probe_run.folder, episodes=40, observation_noise=deviation).thresholded.mean
        for deviation in (0.0, 0.5, 2.0)
    ]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("deviation", [-0.1, float("inf"), float("nan")])
def test_a_noise_that_is_none_is_refused(deviation, probe_run):
    with pytest.raises(ValueError, match="observation_noise must be finite and at least 0, got"):
        evaluate_run(probe_run.folder, episodes=1, observation_noise=deviation)


def test_no_episode_is_refused(probe_run):
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        evaluate_run(probe_run.folder, episodes=0)


@pytest.mark.slow
def test_options_of_the_task_go_over_those_of_the_run(tmp_path, quiet):
    """A game of ten times the frames a step is lost sooner; the frames' size is still the run's."""
    pytest.importorskip("envpool", reason="envpool has no wheel for this machine")
    config = Config(
        task="envpool/Pong-v5",
        task_options={"stack_num": 1, "img_height": 20, "img_width": 20},
        horizon=30,
        algorithm=AlgorithmConfig(num_members=2),
        generations=1,
        evaluation=EvaluationConfig(every=5),
        policy=PolicyConfig(normalization="none"),
    )
    out = train(replace(config, out=str(tmp_path / "run")), console=quiet).folder
    plain, same, longer = (
        evaluate_run(out, episodes=2, options=options)
        for options in ({}, {"frame_skip": 4}, {"frame_skip": 40})
    )
    assert plain == same
    assert longer.center.mean < plain.center.mean - 5
    with pytest.raises(ValueError, match="sizes .1764, 6., but envpool/Pong-v5.*has .400, 6."):
        evaluate_run(out, episodes=2, options={"border": 11})


@pytest.mark.slow
@pytest.mark.simulator
def test_a_policy_trained_in_envpool_plays_in_mjx_as_well(tmp_path, quiet):
    """The two suites have one task: the returns agree within their standard errors."""
    pytest.importorskip("envpool", reason="envpool has no wheel for this machine")
    config = Config(
        task="envpool/InvertedDoublePendulum-v5",
        distractors=1,
        algorithm=AlgorithmConfig(num_members=2),
        generations=1,
        horizon=50,
        evaluation=EvaluationConfig(episodes=100),
    )
    out = train(replace(config, out=str(tmp_path / "run")), console=quiet).folder
    here = evaluate_run(out, episodes=100)
    there = evaluate_run(out, episodes=100, task="mjx/inverted_double_pendulum")
    assert (here.task, there.task) == (config.task, "mjx/inverted_double_pendulum")
    for ours, theirs in ((here.thresholded, there.thresholded), (here.center, there.center)):
        error = np.hypot(ours.standard_error, theirs.standard_error)
        assert 0 < abs(ours.mean - theirs.mean) < STANDARD_ERRORS * error
