"""A pool of Gymnasium's environments as a ``VectorEnv``."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nesht_jax.envs.gymnasium.pool import Pool
from nesht_jax.envs.gymnasium.spaces import Layout, action_map
from nesht_jax.envs.suite import SimulatorError, VectorStep
from nesht_jax.types import Task


class GymnasiumVector:
    """Turns what policies say into actions, observations into what policies see, and cuts episodes.

    Args:
        task: task of the suite, with its horizon; none is cut where it has none.
        pool: environments of the task.
        num_envs: how many of them to use.
        seed: seed of each environment's first reset, after which it draws on, unless ``reset`` is
            given seeds.

    Attributes:
        num_envs: how many environments.
    """

    def __init__(self, task: Task, pool: Pool, num_envs: int, *, seed: int = 0) -> None:
        self._task, self._pool, self.num_envs = task, pool, num_envs
        self._layout: Layout = task.simulator.layout
        self._to_actions = action_map(task.simulator.action_space)
        self._steps = np.zeros(num_envs, np.int64)
        seeds = np.random.SeedSequence(seed).generate_state(num_envs) >> 1
        self._seeds: list[int | None] = seeds.tolist()

    def reset(
        self, ids: Int[np.ndarray, " envs"], seeds: list[int | None] | None = None
    ) -> Float[np.ndarray, "envs o"]:
        """Begins an episode in each of these environments; returns its first observation.

        Raises:
            SimulatorError: from whatever an environment raises.
        """
        self._steps[ids] = 0
        numbers = ids.tolist()
        given = [self._seeds[i] for i in numbers] if seeds is None else seeds
        for i in numbers:
            self._seeds[i] = None
        with self._naming():
            return self._layout.rows(self._pool.reset(numbers, given))

    def step(
        self, actions: Float[np.ndarray, "envs a"], ids: Int[np.ndarray, " envs"]
    ) -> VectorStep:
        """One step in each of these environments, by what a policy says.

        Raises:
            SimulatorError: from whatever an environment raises.
        """
        self._steps[ids] += 1
        taken = self._to_actions(actions)
        with self._naming():
            outcomes = self._pool.step(ids.tolist(), taken)
            observations, reward, terminated, truncated = zip(*outcomes, strict=True)
            rows = self._layout.rows(observations)
        cut = np.array(truncated, bool)
        if self._task.horizon is not None:
            cut |= self._steps[ids] >= self._task.horizon
        return VectorStep(rows, np.array(reward, np.float64), np.array(terminated, bool), cut)

    def close(self) -> None:
        """Frees the environments."""
        self._pool.close()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Says of an error in which step it was raised."""
        try:
            yield
        except Exception as error:  # an environment may raise anything
            step: Any = self._steps[self._pool.at]
            place = f"in step {step} of an episode" if step else "in the reset of an episode"
            raise SimulatorError(
                f"{self._task.name} raised {type(error).__name__} {place}: {error}"
            ) from error
