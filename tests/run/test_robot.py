"""The still of a robot: whose it is, where it comes from, and that its want harms nothing."""

import ctypes.util
import gc
import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nesht_jax.envs.tasks import make_task
from nesht_jax.run import result, robot, train
from nesht_jax.run.robot import NAME

opengl = pytest.mark.skipif(
    not any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa")),
    reason="no OpenGL that draws without a display (libegl1, libgl1-mesa-dri)",
)


@pytest.fixture
def hopper():
    # an option that Gymnasium, which draws, does not have
    options = {"num_threads": 1}
    return make_task("envpool/Hopper-v5", distractors=2, distractor_kind="slow", options=options)


@opengl
def test_a_robot_stands_before_its_sky(hopper, tmp_path):
    with Image.open(io.BytesIO(robot.robot(tmp_path, hopper) or b"")) as file:
        picture = np.asarray(file.convert("RGB"), int)
    assert picture.shape == (480, 480, 3) and not list(tmp_path.iterdir())
    sky, body = picture[60, 240], picture[300, 240]
    assert sky[2] > sky[0] and body[0] > body[2] + 30  # blue, and brown


def test_a_picture_that_is_there_is_not_drawn(hopper, tmp_path, monkeypatch):
    monkeypatch.setattr(robot, "make_stage", None)
    (tmp_path / NAME).write_bytes(b"still")
    assert robot.robot(tmp_path, hopper) == b"still"


@pytest.mark.parametrize("name", ["probe/linear", "gymnasium/CartPole-v1", "envpool/Acrobot-v1"])
def test_only_robots_of_mujoco_are_drawn(name, tmp_path, monkeypatch):
    monkeypatch.setattr(robot, "_drawn", lambda task: pytest.fail(f"{task.name} is drawn"))
    assert robot.robot(tmp_path, make_task(name)) is None


class HalfMade:
    """What a renderer without its context raises while it is freed."""

    def __del__(self):
        raise AttributeError("no context")


def without_opengl(task):
    half_made = HalfMade()
    warnings.warn("no display", stacklevel=1)
    raise RuntimeError(f"no OpenGL {id(half_made)}")


def test_where_nothing_can_be_drawn_nothing_is_said(hopper, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(robot, "make_stage", without_opengl)
    assert robot.robot(tmp_path, hopper) is None
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_run_keeps_its_robot(probe, quiet, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(file, "webp", lossless=True)
    monkeypatch.setattr(result, "robot", lambda folder, task: file.getvalue())
    folder = train.train(replace(probe, generations=1), console=quiet).folder
    assert (folder / NAME).read_bytes() == file.getvalue()
    with Image.open(folder / "sensors.png") as picture:
        assert (np.asarray(picture.convert("RGB")) == (200, 0, 0)).all(2).any()
