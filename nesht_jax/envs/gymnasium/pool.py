"""Environments of Gymnasium, in this process or in others, as pools that step by number."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import iterate

Ids = list[int]
"""Numbers of environments in a pool."""

Outcome = tuple[Any, float, bool, bool]
"""Observation, reward, terminated and truncated of one step of one environment."""


@runtime_checkable
class Pool(Protocol):
    """Environments that step by number; none resets by itself.

    Attributes:
        at: number of the environment at work; after an error that of the one that raised it.
    """

    at: int

    def reset(self, ids: Ids, seeds: list[int | None]) -> list[Any]:
        """Begins an episode in each of these environments; returns its first observation."""
        ...

    def step(self, ids: Ids, actions: list[Any]) -> list[Outcome]:
        """One step in each of these environments."""
        ...

    def close(self, *, terminate: bool = False) -> None:
        """Frees the environments; ``terminate``: without waiting for what they are at."""
        ...


class SyncPool:
    """Environments in this process, one after the other. See ``Pool``."""

    def __init__(self) -> None:
        self.at = 0
        self._envs: list[gymnasium.Env] = []
        weakref.finalize(self, close_all, self._envs)

    def grow(self, num_envs: int, make_one: Callable[[], gymnasium.Env]) -> None:
        """Makes environments until there are so many."""
        while len(self._envs) < num_envs:
            self._envs.append(make_one())

    def reset(self, ids: Ids, seeds: list[int | None]) -> list[Any]:
        """Begins an episode in each of these environments; returns its first observation."""
        observations = []
        for self.at, seed in zip(ids, seeds, strict=True):
            observations.append(self._envs[self.at].reset(seed=seed)[0])
        return observations

    def step(self, ids: Ids, actions: list[Any]) -> list[Outcome]:
        """One step in each of these environments."""
        outcomes = []
        for self.at, action in zip(ids, actions, strict=True):
            observation, reward, *ended, _ = self._envs[self.at].step(action)
            outcomes.append((observation, reward, *ended))
        return outcomes

    def close(self, *, terminate: bool = False) -> None:
        """Frees the environments."""
        del terminate
        close_all(self._envs)


class AsyncPool:
    """Environments in a process each. See ``Pool``.

    Args:
        vector: Gymnasium's vector of environments that are parked where their action is None.
    """

    def __init__(self, vector: AsyncVectorEnv) -> None:
        self.at, self._vector = 0, vector
        weakref.finalize(self, vector.close)

    def reset(self, ids: Ids, seeds: list[int | None]) -> list[Any]:
        """Begins an episode in each of these environments; returns its first observation."""
        mask = np.zeros(self._vector.num_envs, bool)
        all_seeds: list[int | None] = [None] * mask.size
        for i, seed in zip(ids, seeds, strict=True):
            mask[i], all_seeds[i] = True, seed
        with self._at_fault():
            batch, _ = self._vector.reset(seed=all_seeds, options={"reset_mask": mask})
        return self._chosen(batch, ids)

    def step(self, ids: Ids, actions: list[Any]) -> list[Outcome]:
        """One step in each of these environments; the others stay where they are."""
        all_actions: Any = [None] * self._vector.num_envs
        for i, action in zip(ids, actions, strict=True):
            all_actions[i] = action
        with self._at_fault():
            batch, reward, terminated, truncated, _ = self._vector.step(all_actions)
        told = (part[ids].tolist() for part in (reward, terminated, truncated))
        return list(zip(self._chosen(batch, ids), *told, strict=True))

    def close(self, *, terminate: bool = False) -> None:
        """Ends the processes."""
        self._vector.close(terminate=terminate)

    def _chosen(self, batch: Any, ids: Ids) -> list[Any]:
        every = list(iterate(self._vector.observation_space, batch))
        return [every[i] for i in ids]

    @contextlib.contextmanager
    def _at_fault(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # notes whose it was, whatever it is, and lets it pass
            lost = [i for i, pipe in enumerate(self._vector.parent_pipes) if pipe is None]
            self.at = lost[-1] if lost else 0
            raise


def close_all(envs: list[gymnasium.Env]) -> None:
    """Closes environments and forgets them."""
    while envs:
        envs.pop().close()
