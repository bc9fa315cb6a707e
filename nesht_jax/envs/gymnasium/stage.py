"""An environment of Gymnasium that draws pictures, on a machine with a display or without."""

import ctypes.util
import dataclasses
import os
import sys
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from nesht_jax.envs.gymnasium.pool import SyncPool
from nesht_jax.envs.gymnasium.tasks import make
from nesht_jax.envs.gymnasium.vector import GymnasiumVector
from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.envs.host_stage import HostStage
from nesht_jax.envs.simulator import refusals
from nesht_jax.types import Task

DRAWN = {"render_mode": "rgb_array", "vectorization_mode": "sync"}
"""Options of an environment that draws pictures."""

USUAL_RATE = 30
"""Steps a second of an environment that tells none."""

NO_OPENGL = (
    "drawing needs OpenGL, and none was found that works without a display; on Debian: apt install "
    "libegl1 libgl1-mesa-dri"
)


def make_stage(task: Task, distractors: HostDistractors, *, seed: int) -> HostStage:
    """Makes one environment of a task that draws pictures.

    Args:
        task: task of the suite.
        distractors: distractors of one environment.
        seed: seed of resets and distractors.

    Raises:
        ValueError: if the environment draws no pictures, or cannot on this machine.
    """
    _find_opengl()
    name = task.name.partition("/")[2].rpartition(":")[2]
    try:
        simulator = make(name, task.options | DRAWN).simulator
    except ValueError as error:  # without these options it was made
        raise ValueError(f"{task.name} draws no pictures: {error}") from error
    task = dataclasses.replace(task, simulator=simulator)
    env, pool = simulator.take_one(), SyncPool()
    _follow(env)
    pool.grow(1, lambda: env)

    def draw(shown: Any) -> UInt8[np.ndarray, "height width 3"]:
        del shown
        with refusals(task.name, {"render_mode": DRAWN["render_mode"]}):
            picture = env.render()
        if picture is None:
            raise ValueError(f"{task.name} draws no pictures")
        return np.asarray(picture, np.uint8)

    return HostStage(
        task,
        GymnasiumVector(task, pool, 1, seed=seed),
        distractors,
        draw,
        seconds=1 / simulator.metadata.get("render_fps", USUAL_RATE),
        seed=seed,
    )


def _follow(env: gymnasium.Env) -> None:
    """Looks at a robot of MuJoCo through the camera of its model that goes along with it."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        cameras = [renderer.model.camera(i).name for i in range(renderer.model.ncam)]
        renderer.camera_id = cameras.index("track") if "track" in cameras else renderer.camera_id


def _find_opengl() -> None:
    """Says how MuJoCo should draw on a machine without a display, where nobody has said it."""
    told = any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform != "linux" or told:
        return
    for library, backend in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
