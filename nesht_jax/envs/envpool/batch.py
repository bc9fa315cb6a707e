"""Half of the episodes that envpool plays, while the policy acts for the other half."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from nesht_jax.envs.envpool.tasks import Simulator
from nesht_jax.envs.envpool.vector import EnvpoolVector
from nesht_jax.envs.host import normals
from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.types import Moments, Task

SMALLEST_BATCH = 8
"""Rows below which policy batches are not shrunk: a smaller one is not faster."""


class HalfBatch:
    """Episodes of some environments of one pool, as they are played.

    Args:
        task: task of all episodes.
        vector: pool that plays them; all that is random in them is drawn from its stream.
        horizon: steps after which they are cut, if the pool does not do so sooner; None: it does.
        act: (drawn, shown, action normals, moments so far, rows that count) -> actions, NaN of
            episodes that have failed, and moments.
        drawn: what the member of each episode has of its own.
        observed: moments of what the policies acted on; None where they are not gathered.
        action_normals: buffer for the N(0, 1) numbers of each action, a row an episode.
        played: random play that some kinds of distractors are taken from.

    Attributes:
        episodes: numbers of the episodes among all.
        living: rows of the episodes that go on.
        returns: return so far of each episode; NaN of one that failed.
        steps: steps done in each episode.
        terminated: whether the task has terminated each episode.
    """

    def __init__(
        self,
        task: Task,
        vector: EnvpoolVector,
        *,
        horizon: int | None,
        act: Callable[..., tuple[Array, Moments | None]],
        drawn: Any,
        observed: Moments | None,
        action_normals: Float[np.ndarray, "envs _"],
        played: Float[np.ndarray, "n o"],
    ) -> None:
        self._simulator: Simulator = task.simulator
        self._vector, self._act, self._drawn = vector, act, drawn
        self._horizon = math.inf if horizon is None else horizon
        self._action_normals, self.observed = action_normals, observed
        size = len(action_normals)
        self._shown = np.zeros((size, task.num_features), self._simulator.dtype)
        self._size, self._step = task.observation_size, 0
        self._distractors = HostDistractors(task, size, self._simulator.distractors, played)
        self.living = self._rows = np.arange(size)  # _rows: the living, in the policy's batch
        self.returns, self.steps = np.zeros(size), np.zeros(size, np.int32)
        self.terminated = np.zeros(size, bool)

    def begin(self, episodes: Int[np.ndarray, " envs"], *, ids: Int[np.ndarray, " envs"]) -> None:
        """Resets each environment and sets the simulator to work on the first actions."""
        self.episodes, self._ids = episodes, ids
        self._send(self._vector.begin(ids))

    def step(self) -> None:
        """Takes in what the simulator has done, and sets it to work on the next actions."""
        shown, reward, terminated, truncated = self._vector.recv()
        self.returns[self.living] += reward
        self.steps[self.living] += 1
        self.terminated[self.living] = terminated
        alive = ~(terminated | truncated | (self._step >= self._horizon))
        paid = np.isfinite(reward)
        if not paid.all():
            self.returns[self.living[~paid]] = np.nan
            alive &= paid
        self._keep(alive)
        if self.living.size:
            self._send(shown[alive])

    def _send(self, shown: Real[np.ndarray, "living o"]) -> None:
        if self.living.size <= len(self._shown) // 2 and len(self._shown) > SMALLEST_BATCH:
            self._shrink(max(-(-len(self._shown) // 2), SMALLEST_BATCH))
        rows, stream, size = self._rows, self._vector.stream, self._size
        self._shown[rows, :size] = shown
        self._shown[rows, size:] = self._distractors.draw(stream, rows, self._step)
        self._step += 1
        self._action_normals[rows] = normals(stream, (rows.size, self._action_normals.shape[1]))
        counted = np.zeros(len(self._shown), bool)
        counted[rows] = True
        action, self.observed = self._act(
            self._drawn, self._shown, self._action_normals, self.observed, counted
        )
        action = np.asarray(action)[rows]
        failed = np.isnan(action[:, 0])
        if failed.any():
            self.returns[self.living[failed]] = np.nan
            self._keep(~failed)
            action = action[~failed]
        if self.living.size:
            self._distractors.acted(self._rows, action)
            self._vector.send(action, self._ids[self.living])

    def _keep(self, alive: Bool[np.ndarray, " living"]) -> None:
        self.living, self._rows = self.living[alive], self._rows[alive]

    def _shrink(self, size: int) -> None:
        chosen = np.resize(self._rows, size)
        self._drawn = _take(self._drawn, chosen)
        self._shown, self._action_normals = self._shown[chosen], self._action_normals[chosen]
        self._distractors.keep(chosen)
        self._rows = np.arange(self.living.size)


@jax.jit
def _take(tree: Any, rows: Int[Array, " rows"]) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)
