"""Films side by side: which policies play, from which reset, and what stands above them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nesht_jax import load
from nesht_jax.run import render, trials
from nesht_jax.run.cli import main
from nesht_jax.run.policies import NAME, read_arrays
from nesht_jax.run.trials import captioned, early_middle_last, film_trials, side_by_side


class FakeStage:
    """Of the first stage an episode has one step, of the second two, ...; all see their seed."""

    seconds = 0.1
    made = []

    def __init__(self, task, seed):
        self.made.append(self)
        self.first = np.random.default_rng(seed).normal(size=task.num_features).astype(np.float32)
        self.last, self.actions, self.closed = len(self.made), [], False

    def reset(self):
        return self.first

    def step(self, action):
        self.actions.append(action)
        return self.first, 2.0, len(self.actions) == self.last

    def picture(self):
        return np.full((32, 64, 3), 10 * len(self.actions), np.uint8)

    def close(self):
        self.closed = True


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.setattr(FakeStage, "made", [])
    monkeypatch.setattr(render, "make_stage", lambda task, *, seed: (FakeStage(task, seed), task))
    return FakeStage.made


@pytest.fixture
def titles(monkeypatch):
    """What stands above the bodies, a list for each film."""
    told = {}

    def kept(title, picture, seen, caption):
        told.setdefault(title, []).append(caption)
        return captioned(title, picture, seen, caption)

    monkeypatch.setattr(trials, "captioned", kept)
    return told


@pytest.mark.slow
def test_three_policies_play_from_one_reset(probe_run, stages, titles):
    films = film_trials(probe_run.folder, seed=3)
    generations = [trial.generation for trial in films]
    assert generations == [0, 4, 12] and all(stage.closed for stage in stages)
    for stage, generation in zip(stages, generations, strict=True):
        np.testing.assert_array_equal(stage.first, stages[0].first)
        np.testing.assert_array_equal(
            stage.actions[0], load(probe_run.folder, generation).scores(stage.first)
        )
    measured = read_arrays(probe_run.folder)["return"][[0, 1, 3]]
    heads = zip(generations, measured, strict=True)
    assert list(titles) == [f"generation {g} · mean return {mean:.0f}" for g, mean in heads]
    assert list(titles.values())[1] == [
        "return 0 · step 0",
        "return 2 · step 1",
        "return 4 · over at step 2",
    ]


@pytest.mark.slow
def test_the_last_picture_stays_where_an_episode_is_over(probe_run, stages):
    films = [trial.film.pictures for trial in film_trials(probe_run.folder)]
    joined = side_by_side(films)
    assert len(joined) == 4 and {picture.shape for picture in joined} == {
        (films[0][0].shape[0], 3 * trials.WIDTH, 3)
    }
    left, right = slice(0, trials.WIDTH), slice(2 * trials.WIDTH, None)
    for i, picture in enumerate(joined):
        np.testing.assert_array_equal(picture[:, left], films[0][min(i, 1)])
        np.testing.assert_array_equal(picture[:, right], films[2][i])


def test_a_body_stands_below_its_caption():
    picture = captioned("a", np.full((30, 60, 3), 7, np.uint8), np.zeros(2, np.float32), "b")
    tall = (trials.WIDTH - 4) // 2
    assert picture.shape[1] == trials.WIDTH and picture.shape[0] % 16 == 0
    assert (picture[44 : 44 + tall, : trials.WIDTH - 4] == 7).all()
    assert (picture[:44] == picture[:1]).all(2).mean() < 1 and (picture[44 + tall :] == 255).all()


@pytest.mark.parametrize(
    ("generations", "chosen"),
    [([0, 20], [0, 20]), ([0, 7, 10], [0, 7, 10]), ([0, 40, 60, 80, 90, 100], [0, 40, 100])],
)
def test_the_middle_is_nearest_to_halfway(generations, chosen):
    assert early_middle_last(generations) == chosen


@pytest.fixture
def cut_run(probe_run, tmp_path):
    """A run whose file of policies has the evaluations that are told."""

    def cut(*evaluations, **changed):
        folder = tmp_path / "run"
        shutil.copytree(probe_run.folder, folder)
        arrays = {name: x[list(evaluations)] for name, x in read_arrays(folder).items()}
        np.savez(folder / NAME, **(arrays | changed))
        return folder

    return cut


def test_one_evaluation_makes_no_grid(cut_run, stages, capsys):
    assert main(["render", str(cut_run(1)), "--grid"]) == 2
    assert (
        "keeps the policy of one evaluation: a grid needs at least two" in capsys.readouterr().err
    )


def test_an_evaluation_that_failed_says_so(cut_run, stages, titles):
    film_trials(cut_run(0, 1, **{"return": np.array([np.nan, 4.0])}))
    assert list(titles) == ["generation 0 · no finite return", "generation 4 · mean return 4"]


def test_the_command_writes_one_film(cut_run, stages, capsys):
    folder = cut_run(0, 3)
    assert main(["render", str(folder), "--grid"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "generation 0: return 2.0 after 1 steps",
        "generation 12: return 4.0 after 2 steps",
    ]
    with Image.open(folder / "grid.webp") as film:
        assert film.n_frames == 3 and film.width == 2 * trials.WIDTH
