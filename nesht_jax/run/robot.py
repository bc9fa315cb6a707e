"""A still of the robot of a run, which its pictures show beside what the policy reads."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image

from nesht_jax.envs import catalog
from nesht_jax.envs.tasks import make_stage
from nesht_jax.run.render import Picture
from nesht_jax.types import Task

NAME = "robot.webp"


def robot(folder: Path, task: Task) -> bytes | None:
    """Gives the picture in a run folder or, without one, draws the robot as an episode begins.

    Args:
        folder: run folder; nothing is written to it.
        task: task of the run.

    Returns:
        The picture as WebP; None where the task has no robot of Gymnasium's MuJoCo tasks, or where
        this machine cannot draw it.
    """
    path = folder / NAME
    if path.is_file():
        return path.read_bytes()
    return _drawn(task) if _is_robot(task) else None


def _is_robot(task: Task) -> bool:
    """Whether the task is one of Gymnasium's MuJoCo, which are the tasks of ``mjx/*``."""
    suite, _, name = task.name.partition("/")
    stem, _ = catalog.canonical(name)
    kinds = {entry.suite for entry in catalog.matching(stem)}
    return suite in ("envpool", "gymnasium", "mjx") and "mjx" in kinds


def _drawn(task: Task) -> bytes | None:
    # distractors are not in the picture, and options of envpool are no options of what draws it
    options = task.options if task.name.startswith("gymnasium/") else {}
    bare = replace(task, options=options, distractors=0, distractor_kind="normal")
    with _quiet():
        try:
            stage, _ = make_stage(bare)
            with closing(stage):
                stage.reset()
                return _encoded(stage.picture())
        except Exception:  # without OpenGL every driver fails in its own way
            return None


def _encoded(picture: Picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "webp", quality=80)
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lets neither warnings through nor what a renderer that was made by half raises when freed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.unraisablehook = hook
