"""What a task tells of itself before anything is simulated."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

TaskOptions = dict[str, Any]
"""Options of the simulator behind a room, passed on to it as they are."""


class TaskSpec(NamedTuple):
    """Sizes and bounds of a task.

    Attributes:
        observation_size: features of the true observation, noise not counted.
        action_low: lower action bounds. Where a task has a actions to choose from, the policy gives
            a score each, -inf to inf, and the room plays the highest, the first of equals.
        action_high: upper action bounds.
        horizon: steps after which the task truncates an episode; None if it never does.
        frames: channels, height and width of an observation that is an image, flattened in this
            order; None if it is none.
        frame_skip: frames of a game in one step; None where there are none.
        terminates: False where the room knows that no episode ends before its horizon.
    """

    observation_size: int
    action_low: Float[np.ndarray, " a"]
    action_high: Float[np.ndarray, " a"]
    horizon: int | None
    frames: tuple[int, int, int] | None = None
    frame_skip: int | None = None
    terminates: bool = True


def episode_length(spec: TaskSpec, horizon: int | None) -> int:
    """Steps after which an episode is cut: ``horizon``, or the task's own.

    Raises:
        ValueError: if there is neither.
    """
    length = horizon or spec.horizon
    if length is None:
        raise ValueError(
            "the task has no time limit of its own: set horizon, the steps after which an episode "
            "is cut"
        )
    return length
