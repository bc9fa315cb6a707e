"""Films of policies: what is played, what stands in a picture, and what a file holds."""

import ctypes.util
import re
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import jax
import numpy as np
import pytest
from PIL import Image

from nesht_jax import load
from nesht_jax.envs.tasks import make_stage, make_task
from nesht_jax.run import render
from nesht_jax.run.build import build_policy
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.load import TrainedPolicy
from nesht_jax.run.render import Bars, film, write_film
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, PolicyConfig
from nesht_jax.run.train import train
from nesht_jax.types import Moments

SKY = np.full((480, 480, 3), 100, np.uint8)

opengl = pytest.mark.skipif(
    not any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa")),
    reason="no OpenGL that draws without a display (libegl1, libgl1-mesa-dri)",
)


class FakeStage:
    """Three steps of 0.1 s, reward 1, whose observation counts."""

    seconds = 0.1

    def __init__(self, task, seed):
        self.size, self.closed, self.actions = task.num_features, False, []

    def reset(self):
        self.number = 0
        return np.zeros(self.size, np.float32)

    def step(self, action):
        assert action.shape == (1,)
        self.actions.append(float(action[0]))
        self.number += 1
        return np.full(self.size, self.number, np.float32), 1.0, self.number == 3

    def picture(self):
        return SKY

    def close(self):
        self.closed = True


@pytest.fixture
def staged(monkeypatch):
    made = []

    def make(task, *, seed):
        made.append(FakeStage(task, seed))
        return made[-1], task

    monkeypatch.setattr(render, "make_stage", make)
    return made


@pytest.mark.slow
def test_a_film_of_an_episode(staged, probe_run):
    made = film(probe_run.folder)
    assert (made.total, made.steps, made.over, made.seconds) == (3.0, 3, True, 0.1)
    assert len(made.pictures) == 4 and staged[0].closed
    height, width, _ = made.pictures[0].shape
    assert height % 16 == width % 16 == 0 and width > 480


def test_a_film_of_the_generation_that_is_asked_for(staged, probe_run):
    for generation in (0, 12, None):
        film(probe_run.folder, generation=generation)
    first, last, newest = (stage.actions for stage in staged)
    assert first != last == newest


def test_a_film_that_ends_before_the_episode(staged, probe_run):
    made = film(probe_run.folder, steps=2)
    assert (made.total, made.steps, made.over) == (2.0, 2, False)


def test_a_film_draws_choices_where_training_did(monkeypatch):
    task = make_task("gymnasium/CartPole-v1")
    config = Config(task=task.name, policy=PolicyConfig(output="sample", normalization="none"))
    network = build_policy(config, task)
    policy = TrainedPolicy(config, task, network, network.init(jax.random.key(0)), None)
    played = []

    class Coin(FakeStage):
        def step(self, action):
            played.append(int(np.argmax(action)))
            return np.zeros(4, np.float32), 1.0, len(played) == 400

    monkeypatch.setattr(render, "make_stage", lambda task, *, seed: (Coin(task, seed), task))
    render.played(policy, lambda picture, seen, caption: picture, seed=0, steps=400)
    assert 160 < sum(played) < 240  # both scores are 0


def test_a_picture_a_frame_of_the_film_where_steps_are_short(staged, probe_run, monkeypatch):
    monkeypatch.setattr(FakeStage, "seconds", 0.02)
    made = film(probe_run.folder)
    assert made.seconds == 0.04 and len(made.pictures) == 1 + 1 + 1


def test_sensors_that_are_read_are_in_color(probe_run):
    policy = load(probe_run.folder)
    weights = policy.reading.weights.copy()
    weights[:5] = 0
    weights[2] = 1
    policy.reading = policy.reading._replace(weights=weights)
    seen = np.arange(20, dtype=np.float32) + 1
    picture = Bars(policy).beside(SKY, seen, "return 0")
    rows = [picture[32 + 22 * i :, 620:][:22].reshape(-1, 3) for i in range(5)]
    colored = [(row == render.READ).all(1).any() for row in rows]
    assert colored == [False, False, True, False, False]
    assert [(row == render.UNREAD).all(1).any() for row in rows] == [not c for c in colored]


@pytest.mark.parametrize(("value", "reach"), [(-1.01, -1 / 3), (2.02, 2 / 3), (-99, -1), (99, 1)])
def test_a_bar_reaches_as_far_as_its_sensor_is_from_its_mean(probe_run, value, reach):
    policy = load(probe_run.folder)
    policy.moments = Moments(np.float32(4), np.full(20, 7, np.float32), np.full(20, 4, np.float32))
    policy.reading = policy.reading._replace(weights=np.ones((20, 1), np.float32))
    seen = np.full(20, 7, np.float32)
    seen[1] += value
    picture = Bars(policy).beside(SKY, seen, "")
    row = picture[32 + 22 + 8, 480:]
    columns = np.flatnonzero((row == render.READ).all(1)) - 195
    assert abs(columns[np.abs(columns).argmax()] - 55 * reach) <= 1
    assert (np.sign(columns[columns != 0]) == np.sign(reach)).all()


def test_a_policy_that_looks_at_images_has_no_bars(probe_run):
    policy = load(probe_run.folder)
    policy.reading = None
    assert Bars(policy).beside(SKY, np.zeros(20, np.float32), "").shape == (512, 480, 3)


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_files_hold_every_picture(tmp_path, ending):
    pictures = [np.full((32, 32, 3), 60 * i, np.uint8) for i in range(4)]
    path = tmp_path / f"film{ending}"
    write_film(pictures, path, seconds=0.04)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (4, (32, 32))


def test_mp4_is_written_as_fast_as_life(tmp_path):
    pictures = [np.full((64, 64, 3), 60 * i, np.uint8) for i in range(4)]
    path = tmp_path / "film.mp4"
    write_film(pictures, path, seconds=0.04)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "25 fps" in said and "64x64" in said and re.search(r"frame= *4\b", said)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out=film.avi"], "a film ends in .webp, .gif, .mp4, got film.avi"),
        (["--steps=0"], "steps must be at least 1, got 0"),
        (["--seed=-1"], "seed must be at least 0, got -1"),
        ([], "nothing draws probe/linear"),
        (["--sed=1"], "unknown option 'sed'; did you mean seed"),
        (["--grid", "--generation=4"], "--grid chooses its generations: leave out --generation"),
        (["--grid", "--steps=0"], "steps must be at least 1, got 0"),
        (["--grid"], "nothing draws probe/linear"),
    ],
)
def test_bad_input_is_one_sentence(probe_run, capsys, argv, message):
    assert main(["render", str(probe_run.folder), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not [*probe_run.folder.glob("film*"), *probe_run.folder.glob("grid*")]


def test_a_film_that_cannot_be_written_is_refused_before_anything_is_played(
    probe_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("nesht_jax.run.render.film", None)
    out = tmp_path / "no" / "film.gif"
    assert main(["render", str(probe_run.folder), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("there is no folder") == 1


def test_mp4_tells_what_it_needs(probe_run, capsys, monkeypatch):
    monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
    assert main(["render", str(probe_run.folder), "--out=film.mp4"]) == 2
    assert "nesht-jax[render]" in capsys.readouterr().err


def test_a_game_is_seen_as_its_policy_sees_it():
    task = make_task("envpool/Pong-v5", distractors=1)
    stage, played = make_stage(task, seed=3)
    assert played is task and stage.seconds == pytest.approx(4 / 60)
    stage.reset()
    for _ in range(20):
        seen, _, _ = stage.step(np.eye(6, dtype=np.float32)[2])
    newest = np.rint(255 * seen[: task.observation_size].reshape(task.image_shape)[-1])
    picture = stage.picture()
    assert picture.shape == (420, 420, 3) and newest.std() > 0
    np.testing.assert_array_equal(picture[::5, ::5, 0], newest)
    assert (
        seen.size == 2 * task.observation_size and 0.4 < seen[task.observation_size :].mean() < 0.6
    )
    stage.close()


@opengl
@pytest.mark.slow
def test_a_robot_of_envpool_is_drawn_by_gymnasium(tmp_path, capsys, quiet):
    config = Config(
        task="envpool/Hopper-v5",
        distractors=2,
        algorithm=AlgorithmConfig(num_members=4),
        evaluation=EvaluationConfig(episodes=2),
        generations=1,
        out=str(tmp_path / "run"),
    )
    train(config, console=quiet)
    assert main(["render", config.out, "--steps=20"]) == 0
    said = capsys.readouterr().out
    assert "gymnasium/Hopper-v5 was played in its place" in said and "film.webp" in said
    made = film(tmp_path / "run", steps=20)
    sky, body = made.pictures[0][200, 20], made.pictures[0][300, 240]
    assert made.pictures[0].std() > 10 and (sky != body).any()
    again = film(tmp_path / "run", steps=20)
    np.testing.assert_array_equal(made.pictures[-1], again.pictures[-1])


@opengl
def test_a_robot_of_mjx_is_drawn_by_gymnasium():
    stage, played = make_stage(make_task("mjx/hopper", distractors=1, options={"iterations": 8}))
    assert played.name == "gymnasium/Hopper-v5" and stage.reset().shape == (22,)
    assert stage.picture().shape == (480, 480, 3) and stage.seconds == 1 / 125
    stage.close()


@opengl
def test_options_of_the_pool_are_not_those_of_what_is_drawn():
    task = make_task("envpool/Hopper-v5", options={"num_threads": 1, "reset_noise_scale": 0.0})
    stage, played = make_stage(task)
    assert played.options == {"reset_noise_scale": 0.0}
    np.testing.assert_array_equal(stage.reset()[5:], 0)
    stage.close()


def test_what_is_not_drawn_is_told():
    task = make_task("envpool/Pong-v5", options={"observation": "ram"})
    with pytest.raises(ValueError, match=r"nothing draws .*Pong-v5: .* sees pictures"):
        make_stage(task)


@opengl
@pytest.mark.slow
def test_stages_show_their_distractors():
    for kind in ("normal", "replayed"):
        task = make_task("gymnasium/Hopper-v5", distractors=3, distractor_kind=kind)
        stage, played = make_stage(replace(task, horizon=5), seed=0)
        assert played.name == task.name
        rows = [stage.reset()]
        over = False
        while not over:
            seen, _, over = stage.step(np.zeros(3, np.float32))
            rows.append(seen)
        assert len(rows) == 6 and all(row.shape == (44,) for row in rows)
        assert len({row[11] for row in rows}) == 6
        stage.close()
