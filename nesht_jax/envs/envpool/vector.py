"""A pool of envpool's simulators, stepped together."""

from collections.abc import Sequence
from typing import Any

import envpool
import numpy as np
from jaxtyping import Bool, Float, Int, Real

from nesht_jax.envs.envpool.tasks import Simulator, observation_space
from nesht_jax.envs.host import cores
from nesht_jax.envs.suite import VectorStep
from nesht_jax.types import Task


class EnvpoolVector:
    """A ``VectorEnv`` on a pool, whose step comes in two parts as well: ``send`` and ``recv``.

    ``begin``, ``send`` and ``recv`` speak of rows as they are shown, bytes or float64;
    ``reset`` and ``step`` of rows as a policy sees them.

    Args:
        task: task of the suite, with its horizon.
        seeds: seed of each environment.
        seed: seed of what the suite itself adds to images.

    Raises:
        ValueError: if the horizon is shorter than the no-op start of a game.

    Attributes:
        num_envs: how many environments.
        stream: random bits of what the suite itself adds to images.
    """

    def __init__(self, task: Task, seeds: Sequence[int], *, seed: int = 0) -> None:
        self._simulator: Simulator = task.simulator
        self.num_envs = len(seeds)
        self.stream: np.random.BitGenerator = np.random.SFC64(seed)
        shortest = self._simulator.shortest
        if task.horizon is not None and task.horizon < shortest:
            raise ValueError(
                f"a horizon of {task.horizon} steps is shorter than the no-op start of "
                f"{task.name}: give it at least {shortest}"
            )
        self._pool: Any = envpool.make(
            self._simulator.name,
            env_type="gymnasium",
            num_envs=self.num_envs,
            seed=list(seeds),
            max_episode_steps=task.horizon,
            **{"num_threads": cores(), **self._simulator.options},
        )
        observation_space(self._pool)  # its first reset would make it, with warnings

    def reset(self, ids: Int[np.ndarray, " envs"]) -> Float[np.ndarray, "envs o"]:
        """Begins an episode in each of these environments; returns its first observation."""
        return self._seen(self.begin(ids))

    def step(
        self, actions: Float[np.ndarray, "envs a"], ids: Int[np.ndarray, " envs"]
    ) -> VectorStep:
        """One step in each of these environments, by what a policy says."""
        self.send(actions, ids)
        shown, *rest = self.recv()
        return VectorStep(self._seen(shown), *rest)

    def close(self) -> None:
        """Frees the simulators."""
        self._pool.close()

    def begin(self, ids: Int[np.ndarray, " envs"]) -> Real[np.ndarray, "envs o"]:
        """Begins an episode in each of these environments; returns what it shows."""
        observation, info = self._pool.reset(ids.astype(np.int32, copy=False))
        return self._simulator.show(observation, info, self.stream)

    def send(self, actions: Float[np.ndarray, "envs a"], ids: Int[np.ndarray, " envs"]) -> None:
        """Sets these environments to work on what a policy says, and does not wait."""
        self._pool.send(self._simulator.act(actions), ids.astype(np.int32, copy=False))

    def recv(
        self,
    ) -> tuple[
        Real[np.ndarray, "envs o"],
        Float[np.ndarray, " envs"],
        Bool[np.ndarray, " envs"],
        Bool[np.ndarray, " envs"],
    ]:
        """Waits for what was sent last; returns what is shown, rewards, terminated, truncated."""
        observation, reward, terminated, truncated, info = self._pool.recv()
        shown = self._simulator.show(observation, info, self.stream)
        return shown, reward, terminated, truncated

    def _seen(self, shown: Real[np.ndarray, "envs o"]) -> Float[np.ndarray, "envs o"]:
        with np.errstate(over="ignore"):
            return np.float32(self._simulator.scale) * shown.astype(np.float32)
