"""Human-normalized scores."""

import pytest

from nesht_jax.envs.tasks import task_names
from nesht_jax.report.human import RANDOM_AND_HUMAN, human_normalized


def test_every_game_is_one_of_envpool():
    assert {f"envpool/{game}-v5" for game in RANDOM_AND_HUMAN} <= set(task_names("envpool"))
    assert len(RANDOM_AND_HUMAN) == 57


@pytest.mark.parametrize("score, expected", [(-20.7, 0.0), (14.6, 1.0), (-38.35, -0.5)])
def test_random_is_zero_and_human_one(score, expected):
    assert human_normalized("envpool/Pong-v5", score) == pytest.approx(expected)


@pytest.mark.parametrize("task", ["envpool/Hopper-v5", "probe/linear", "envpool/Casino-v5"])
def test_other_tasks_have_none(task):
    assert human_normalized(task, 1.0) is None
