"""One environment of a host simulator, with its distractors, to be looked at."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.types import Task


class HostStage:
    """See ``suite.Stage``.

    Args:
        task: task that is played.
        vector: one environment of it, a ``VectorEnv`` that can be closed.
        distractors: what draws its distractors.
        draw: what the task shows -> picture.
        seconds: simulated time of a step.
        seed: seed of the distractors.
    """

    def __init__(
        self,
        task: Task,
        vector: Any,
        distractors: HostDistractors,
        draw: Callable[[Float[np.ndarray, " o"]], UInt8[np.ndarray, "height width 3"]],
        *,
        seconds: float,
        seed: int,
    ) -> None:
        self._task, self._vector, self._distractors = task, vector, distractors
        self._draw, self.seconds = draw, seconds
        self._bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(1,)))
        self._steps = 0
        self._shown = np.zeros(task.observation_size, np.float32)

    def reset(self) -> Float[np.ndarray, " features"]:
        """Begins an episode."""
        self._steps = 0
        return self._seen(self._vector.reset(np.zeros(1, np.int64)))

    def step(
        self, action: Float[np.ndarray, " a"]
    ) -> tuple[Float[np.ndarray, " features"], float, bool]:
        """One step."""
        after = self._vector.step(action[None], np.zeros(1, np.int64))
        self._steps += 1
        self._distractors.acted(np.zeros(1, np.int64), action[None])
        over = bool(after.terminated[0] or after.truncated[0])
        return self._seen(after.observation), float(after.reward[0]), over

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draws the environment."""
        return self._draw(self._shown)

    def close(self) -> None:
        """Frees the environment."""
        self._vector.close()

    def _seen(self, shown: Float[np.ndarray, "1 o"]) -> Float[np.ndarray, " features"]:
        self._shown = shown[0]
        added = self._distractors.draw(self._bits, np.zeros(1, np.int64), self._steps)[0]
        return np.concatenate([self._shown, added], dtype=np.float32)
