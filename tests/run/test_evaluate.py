"""Evaluation: the statistics of a score, and a policy that changes rooms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nesht_jax.run.config import Config, PolicyConfig
from nesht_jax.run.evaluate import evaluate_run, score
from nesht_jax.run.train import train

STANDARD_ERRORS = 5


def test_a_score_is_the_mean_with_students_interval():
    returns = np.array([1.0, 4.0, -2.0, 9.0, 3.0])
    told = score(returns, np.array([10, 20, 30, 40, 50]))
    interval = stats.ttest_1samp(returns, 0.0).confidence_interval(0.95)
    assert told.mean == returns.mean() and told.episodes == 5 and told.steps == 30
    np.testing.assert_allclose(told.standard_error, stats.sem(returns))
    np.testing.assert_allclose([told.low, told.high], interval)


def test_one_episode_has_a_mean_and_no_interval():
    told = score(np.array([7.0]), np.array([3]))
    assert told.mean == 7 and np.isnan([told.standard_error, told.low, told.high]).all()


def test_an_evaluation_is_a_function_of_its_seed(probe_run):
    again, same, other = (
        evaluate_run(probe_run.folder, episodes=20, seed=seed) for seed in (3, 3, 4)
    )
    assert again == same != other


def test_no_episode_is_refused(probe_run):
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        evaluate_run(probe_run.folder, episodes=0)


@pytest.mark.slow
def test_options_of_the_task_go_over_those_of_the_run(tmp_path, quiet):
    """A game of ten times the frames a step is lost sooner; the frames' size is still the run's."""
    pytest.importorskip("envpool", reason="envpool has wheels for Linux only")
    config = Config(
        task="envpool/Pong-v5",
        task_options={"stack_num": 1, "img_height": 20, "img_width": 20},
        horizon=30,
        members=2,
        generations=1,
        evaluate_every=5,
        policy=PolicyConfig(normalization="none", output="clip"),
    )
    out = train(replace(config, out=str(tmp_path / "run")), console=quiet).folder
    plain, same, longer = (
        evaluate_run(out, episodes=2, options=options)
        for options in ({}, {"frame_skip": 4}, {"frame_skip": 40})
    )
    assert plain == same
    assert longer.centre.mean < plain.centre.mean - 5
    with pytest.raises(ValueError, match="sizes .1764, 6., but envpool/Pong-v5.*has .400, 6."):
        evaluate_run(out, episodes=2, options={"border": 11})


@pytest.mark.slow
@pytest.mark.simulator
def test_a_policy_trained_in_mjx_plays_in_envpool_as_well(tmp_path, quiet):
    """The two rooms are one task: the returns agree within their standard errors."""
    pytest.importorskip("envpool", reason="envpool has wheels for Linux only")
    config = Config(
        task="mjx/inverted_double_pendulum",
        noise=1,
        members=2,
        generations=1,
        horizon=50,
        evaluate_episodes=100,
    )
    out = train(replace(config, out=str(tmp_path / "run")), console=quiet).folder
    here = evaluate_run(out, episodes=100)
    there = evaluate_run(out, episodes=100, task="envpool/InvertedDoublePendulum-v5")
    assert (here.task, there.task) == (config.task, "envpool/InvertedDoublePendulum-v5")
    for ours, theirs in ((here.thresholded, there.thresholded), (here.centre, there.centre)):
        error = np.hypot(ours.standard_error, theirs.standard_error)
        assert 0 < abs(ours.mean - theirs.mean) < STANDARD_ERRORS * error
