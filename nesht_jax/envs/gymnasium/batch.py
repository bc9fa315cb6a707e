"""The episodes of one call, as environments of Gymnasium play them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nesht_jax.envs.gymnasium.spaces import Layout
from nesht_jax.envs.gymnasium.vector import GymnasiumVector
from nesht_jax.envs.host import normals, uniform_bytes
from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.types import Task


class EpisodeBatch:
    """The episodes of one call, as they are played.

    Args:
        task: task of all episodes.
        vector: environments that play them.
        entropy: integers that all is drawn from.
        streams: number of the stream of each episode's reset.
        num_normals: N(0, 1) numbers that an action consumes.
        played: random play that some kinds of distractors are taken from.

    Attributes:
        episode: number of the episode of each environment.
        busy: whether the episode of each environment goes on.
        changed: whether each environment has just begun an episode.
        seen: what the policy sees, a row an environment.
        action_normals: N(0, 1) numbers for the noise on actions, a row an environment.
        returns: return so far of each episode; NaN of one that failed.
        steps: steps done in each episode.
        terminated: whether the task has terminated each episode.
    """

    def __init__(
        self,
        task: Task,
        vector: GymnasiumVector,
        *,
        entropy: list[int],
        streams: Int[np.ndarray, " episodes"],
        num_normals: int,
        played: Float[np.ndarray, "n o"],
    ) -> None:
        self._vector, self._entropy, self._size = vector, entropy, task.observation_size
        self._distractors = HostDistractors(task, vector.num_envs, fresh_distractors(task), played)
        root = np.random.SeedSequence(entropy, spawn_key=(0,))
        self._seeds = (root.generate_state(streams.max() + 1) >> 1)[streams]
        num_envs = vector.num_envs
        self._bits: list[Any] = [None] * num_envs
        self._waiting = 0
        self.seen = np.zeros((num_envs, task.num_features), np.float32)
        self.action_normals = np.zeros((num_envs, num_normals), np.float32)
        self.episode = np.zeros(num_envs, np.int32)
        self.busy, self.changed = np.zeros((2, num_envs), bool)
        self.returns, self.steps = np.zeros(streams.size), np.zeros(streams.size, np.int32)
        self.terminated = np.zeros(streams.size, bool)
        self._begin(np.arange(num_envs))
        self._look()

    def step(self, action: Float[np.ndarray, "envs a"]) -> None:
        """One step in every busy environment; those whose episode ends take the next one.

        An episode has failed, and ends, where its action is NaN or a reward not finite.
        """
        self.changed[:] = False
        valid = ~np.isnan(action[:, 0])
        failed, playing = self.busy & ~valid, np.flatnonzero(self.busy & valid)
        self.returns[self.episode[failed]] = np.nan
        ended = failed
        if playing.size:
            after = self._vector.step(action[playing], playing)
            self._distractors.acted(playing, action[playing])
            paid = np.isfinite(after.reward)
            episodes = self.episode[playing]
            self.returns[episodes] += np.where(paid, after.reward, np.nan)
            self.steps[episodes] += 1
            self.terminated[episodes] = after.terminated
            self.seen[playing, : self._size] = after.observation
            ended[playing] = after.terminated | after.truncated | ~paid
        if ended.any():
            self._begin(np.flatnonzero(ended))
        self._look()

    def _begin(self, free: Int[np.ndarray, " free"]) -> None:
        """Gives free environments the episodes that wait, as far as there are."""
        begun = free[: len(self.steps) - self._waiting]
        self.busy[free] = False
        if not begun.size:
            return
        self.busy[begun] = self.changed[begun] = True
        self.episode[begun] = episodes = self._waiting + np.arange(begun.size)
        self._waiting += begun.size
        for i, episode in zip(begun, episodes, strict=True):
            stream = np.random.SeedSequence(self._entropy, spawn_key=(1, int(episode)))
            self._bits[i] = np.random.SFC64(stream)
        self.seen[begun, : self._size] = self._vector.reset(begun, self._seeds[episodes].tolist())

    def _look(self) -> None:
        """What is random in what busy environments see and do next, from each episode's stream."""
        if self.seen.shape[1] == self._size and not self.action_normals.size:
            return
        for i in np.flatnonzero(self.busy):
            action_normals, row = self.action_normals[i], np.array([i])
            step = int(self.steps[self.episode[i]])
            self.seen[i, self._size :] = self._distractors.draw(self._bits[i], row, step)[0]
            action_normals[:] = normals(self._bits[i], action_normals.shape)


def fresh_distractors(task: Task) -> Callable[..., Float[np.ndarray, "..."]]:
    """Gives what draws distractors as a policy sees them: (random bits, shape) -> bytes where the
    task shows bytes, else N(0, 1)."""
    layout: Layout = task.simulator.layout
    if not layout.shows_bytes:
        return normals
    return lambda stream, shape: uniform_bytes(stream, shape) * layout.scale[0]
