"""How the environments of one task of Gymnasium are made."""

import contextlib
import functools
import multiprocessing
import os
import random
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, no_type_check

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import FilterObservation

from nesht_jax.envs.gymnasium.pool import AsyncPool, Pool, SyncPool, close_all
from nesht_jax.envs.gymnasium.spaces import Layout, make_layout
from nesht_jax.envs.host import cores
from nesht_jax.envs.silence import silence_mujoco
from nesht_jax.envs.simulator import refusals

MODES = ("sync", "async")
"""Where environments step: in this process, or in one process each."""


class Simulator:
    """Makes the environments of one task, the first of them at once.

    What plays whole episodes shares one pool, so that training and evaluation together need no
    more environments than the larger of them.

    Args:
        name: id in Gymnasium's registry.
        options: options of the environment.
        mode: one of ``MODES``.
        keys: parts of a ``Dict`` observation to show; None for all.
        reset_options: options of every reset; None for Gymnasium's default.
        scaled: whether a policy sees bytes divided by 255.

    Raises:
        ValueError: if an environment cannot be made, now or later.

    Attributes:
        observation_space: space of what one environment shows.
        action_space: space of what one environment takes.
        metadata: what the environment tells of itself.
        mode: one of ``MODES``.
    """

    def __init__(
        self,
        name: str,
        *,
        options: dict[str, Any],
        mode: str = MODES[0],
        keys: Sequence[str] | None = None,
        reset_options: dict[str, Any] | None = None,
        scaled: bool = True,
    ) -> None:
        self._name, self._options, self.mode, self._scaled = name, options, mode, scaled
        filtered = [] if keys is None else [functools.partial(FilterObservation, filter_keys=keys)]
        self._wrappers: list[Callable[[Any], Any]] = [*filtered, _parked_env(reset_options)]
        self._pools: dict[int, Pool] = {}
        first = self._make_one()
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.metadata: dict[str, Any] = first.metadata or {}
        self._spare = [first]
        weakref.finalize(self, close_all, self._spare)
        if mode == "async":
            close_all(self._spare)

    @functools.cached_property
    def layout(self) -> Layout:
        """How observations become rows; for spaces whose parts have a fixed number of features."""
        return make_layout(self.observation_space, scaled=self._scaled)

    def shared(self, num_envs: int) -> Pool:
        """The pool of what plays whole episodes; made anew if it was closed."""
        number = num_envs if self.mode == "async" else 0
        if number not in self._pools:
            self._pools[number] = self.separate(num_envs)
        pool = self._pools[number]
        if isinstance(pool, SyncPool):
            pool.grow(num_envs, self.take_one)
        return pool

    def separate(self, num_envs: int) -> Pool:
        """A pool of its own."""
        if self.mode == "async":
            return AsyncPool(self._make_async(num_envs))
        pool = SyncPool()
        pool.grow(num_envs, self.take_one)
        return pool

    def close(self, *, terminate: bool = False) -> None:
        """Frees the shared pools."""
        while self._pools:
            self._pools.popitem()[1].close(terminate=terminate)

    def take_one(self) -> gymnasium.Env:
        """An environment of the task, as it is made."""
        return self._spare.pop() if self._spare else self._make_one()

    def _make_one(self) -> gymnasium.Env:
        with refusals(f"gymnasium/{self._name}", self._options), silence_mujoco():
            # the horizon is the vector's business, so that pools may be shared
            env = gymnasium.make(self._spec, max_episode_steps=-1, **self._options)
            for wrapper in self._wrappers:
                env = wrapper(env)
            return env

    def _make_async(self, num_envs: int) -> AsyncVectorEnv:
        # a fork of a process with threads, as JAX has them, may hang
        methods = multiprocessing.get_all_start_methods()
        context = "forkserver" if "forkserver" in methods else "spawn"
        with refusals(f"gymnasium/{self._name}", self._options), silence_mujoco():
            made: Any = gymnasium.make_vec(
                self._spec,
                num_envs=num_envs,
                vectorization_mode="async",
                vector_kwargs={
                    "autoreset_mode": AutoresetMode.DISABLED,
                    "copy": False,
                    "context": context,
                    "max_concurrency": cores(),
                },
                wrappers=self._wrappers,
                max_episode_steps=-1,
                **self._options,
            )
            return made

    @property
    def _spec(self) -> Any:
        return gymnasium.registry[self._name]


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seeds Python's and NumPy's global random states, for environments that draw from them and
    ignore their own seed, and puts the states back at the end."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@no_type_check
def _parked_env(reset_options):
    """The wrapper of every environment: it asks for Gymnasium's contract and for no more.

    Made here, so that pickle takes it by value and a worker imports Gymnasium without JAX; and
    unchecked, because what checks types in tests cannot be pickled.
    """
    home = os.getpid()

    class ParkedEnv(gymnasium.Wrapper):
        """Stays where it is at an action of None, and shows its last observation."""

        def __init__(self, env):
            super().__init__(env)
            self.last = None
            self.away = os.getpid() != home
            if self.away:
                # Ctrl-C reaches every process of a terminal; the one that trains decides
                signal.signal(signal.SIGINT, signal.SIG_IGN)

        def reset(self, *, seed=None, options=None):
            if self.away and seed is not None:
                # as ``seeded_globals`` does where environments share a process
                random.seed(seed)
                np.random.seed(seed)
            options = None if reset_options is None else dict(reset_options)
            self.last, _ = self.env.reset(seed=seed, options=options)
            return self.last, {}

        def step(self, action):
            if action is None:
                # one that was never reset has nothing to show, and nobody looks
                shown = self.observation_space.sample() if self.last is None else self.last
                return shown, 0.0, False, False, {}
            self.last, reward, terminated, truncated, _ = self.env.step(action)
            paid = np.asarray(np.nan if reward is None else reward, np.float64)
            if paid.size != 1:
                raise ValueError(f"a reward must be one number, got {reward!r}")
            return self.last, paid.item(), bool(terminated), bool(truncated), {}

        def close(self):
            # nothing depends on it: errors of an ending do not end a run
            with contextlib.suppress(Exception):
                super().close()

    return ParkedEnv
