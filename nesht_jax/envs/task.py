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
        action_low: lower action bounds.
        action_high: upper action bounds.
        horizon: steps after which the task truncates an episode.
    """

    observation_size: int
    action_low: Float[np.ndarray, " a"]
    action_high: Float[np.ndarray, " a"]
    horizon: int
