"""Distractors of simulators that are stepped on the host, of every kind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from nesht_jax.envs.distractors import SCALE, slow_angle
from nesht_jax.envs.host import normals, random_integers
from nesht_jax.types import Task

PLAYED = 4096
"""Observations of random play that marginal and replayed distractors are taken from."""


Fresh = Callable[[np.random.BitGenerator, tuple[int, ...]], Real[np.ndarray, "..."]]
"""``(random bits, shape) -> distractors`` of kind ``normal``, as the task shows features."""


class HostDistractors:
    """Distractors of many environments, a row each, whose episodes are at one step or at several.

    Args:
        task: task whose distractors they are.
        num_envs: rows.
        fresh: what draws distractors of kind ``normal``.
        played: see ``random_play_for``.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        fresh: Fresh,
        played: Float[np.ndarray, "n o"],
    ) -> None:
        self._kind, self._fresh, self._played = task.distractor_kind, fresh, played
        self._segments, self._size = task.distractors, task.observation_size
        width = task.num_features - task.observation_size
        driven = self._kind == "driven"
        self._actions = np.zeros((num_envs, task.num_actions if driven else 0), np.float32)
        self._ends = np.zeros((2, num_envs if self._kind == "slow" else 0, width), np.float32)
        self._begun = np.zeros((num_envs, self._segments), np.int64)

    def keep(self, chosen: Int[np.ndarray, " rows"]) -> None:
        """Goes on with these rows alone, in this order."""
        self._ends = self._ends[:, chosen] if self._kind == "slow" else self._ends
        self._begun, self._actions = self._begun[chosen], self._actions[chosen]

    def acted(self, rows: Int[np.ndarray, " rows"], actions: Float[np.ndarray, "rows a"]) -> None:
        """Is told what these rows have done in the step before the next draw."""
        if self._kind == "driven":
            self._actions[rows] = actions

    def draw(
        self, stream: np.random.BitGenerator, rows: Int[np.ndarray, " rows"], step: int
    ) -> Real[np.ndarray, "rows distractors"]:
        """Draws what these rows show now.

        Args:
            stream: random bits.
            rows: environments, all at the same step of their episodes.
            step: steps done in the episode; every step is drawn once, in order.
        """
        shape = (len(rows), self._segments * self._size)
        match self._kind:
            case "scaled":
                return SCALE * self._fresh(stream, shape)
            case "slow":
                return self._slow(stream, rows, step, shape)
            case "driven":
                return self._driven(stream, rows, step, shape)
            case "marginal":
                return self._marginal(stream, shape)
            case "replayed":
                return self._replayed(stream, rows, step, shape)
        return self._fresh(stream, shape)

    def _slow(
        self, stream: np.random.BitGenerator, rows: Any, step: int, shape: tuple[int, int]
    ) -> Float[np.ndarray, "rows distractors"]:
        _, cosine, sine = slow_angle(step)
        before, after = self._ends
        if sine == 0:
            before[rows] = after[rows] if step else self._fresh(stream, shape)
            after[rows] = self._fresh(stream, shape)
        return np.float32(cosine) * before[rows] + np.float32(sine) * after[rows]

    def _driven(
        self, stream: np.random.BitGenerator, rows: Any, step: int, shape: tuple[int, int]
    ) -> Float[np.ndarray, "rows distractors"]:
        features = self._fresh(stream, shape)
        if step == 0:
            return features
        actions = self._actions[rows]
        return actions[:, np.arange(shape[1]) % actions.shape[1]] + features

    def _marginal(
        self, stream: np.random.BitGenerator, shape: tuple[int, int]
    ) -> Float[np.ndarray, "rows distractors"]:
        played = self._played
        chosen = random_integers(stream, (shape[0], self._segments, self._size), len(played))
        return played[chosen, np.arange(self._size)].reshape(shape)

    def _replayed(
        self, stream: np.random.BitGenerator, rows: Any, step: int, shape: tuple[int, int]
    ) -> Float[np.ndarray, "rows distractors"]:
        played = self._played
        if step == 0:
            self._begun[rows] = random_integers(stream, (shape[0], self._segments), len(played))
        return played[(self._begun[rows] + step) % len(played)].reshape(shape)


def random_play_for(
    task: Task, fresh: Fresh, observations: Callable[[Task, int, int], Float[np.ndarray, "n o"]]
) -> Float[np.ndarray, "n o"]:
    """Plays at random what marginal and replayed distractors are taken from; no rows for others.

    Raises:
        ValueError: if the task shows bytes, of which there is but one kind of distractors.
    """
    if task.distractor_kind != "normal" and fresh is not normals:
        raise ValueError(
            f"distractor_kind {task.distractor_kind} is of features, and {task.name} shows bytes"
        )
    if task.distractor_kind not in ("marginal", "replayed") or not task.distractors:
        return np.zeros((0, task.observation_size), np.float32)
    return observations(replace(task, distractors=0, distractor_kind="normal"), PLAYED, 0)
