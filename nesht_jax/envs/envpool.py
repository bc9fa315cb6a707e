"""Gymnasium's MuJoCo tasks in envpool, a pool of C++ simulators stepped on the host.

Only living episodes are stepped, and the policy acts for one half of them while the other half is
simulated. The pool is float64: its observations are cast on the host, and its own XLA interface,
which corrupts memory outside 64-bit mode, is never used.
"""

import difflib
import functools
import os
from collections.abc import Callable
from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
from envpool.registration import registry
from jaxtyping import Array, Float, Int, Key

from nesht_jax import normalize
from nesht_jax.contract import Evaluation, Members
from nesht_jax.envs import queue
from nesht_jax.envs.host import batched_act, normals
from nesht_jax.envs.task import TaskOptions, TaskSpec
from nesht_jax.policy import Policy

SMALLEST_BATCH = 8
"""Policy batches are not shrunk below this: a smaller one is not faster."""

_OWNED = ("num_envs", "batch_size", "seed", "env_seed", "max_episode_steps", "base_path")


def names() -> list[str]:
    """Gymnasium MuJoCo v4 and v5 of the installed envpool."""
    return sorted(
        task
        for task, (module, *_) in registry.specs.items()
        if module == "envpool.mujoco.gym" and task.endswith(("-v4", "-v5"))
    )


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task.

    Raises:
        ValueError: if envpool has no such option, or the room itself sets it.
    """
    config = envpool.make_spec(name).config
    valid = [key for key in config._fields if key not in _OWNED]
    for key in options:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(f"{name} has no option {key!r}; valid are {', '.join(near)}")
    made = envpool.make_spec(name, **options)
    observations, actions = made.gymnasium_observation_space, made.gymnasium_action_space
    return TaskSpec(
        observations.shape[0],
        actions.low.astype(np.float32),
        actions.high.astype(np.float32),
        config.max_episode_steps,
    )


class EnvpoolEvaluate:
    """A slot for every (member, rollout), in two pools; each call resets every slot once.

    Slot resets are draws of the slot's own stream, so call c sees the c-th draw of every slot:
    ``seek`` gets there by resetting c times, at some ten microseconds a reset.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        num_members: int,
        rollouts: int,
        noise: int,
        horizon: int | None,
        action_noise: float,
        common_random_numbers: bool,
        seed: int,
        options: TaskOptions,
    ) -> None:
        self._shape = (num_members, rollouts)
        task = spec(name, options)
        member, rollout = np.divmod(np.arange(num_members * rollouts), rollouts)
        stream = (member // 2 if common_random_numbers else member) * rollouts + rollout
        seeds = np.random.SeedSequence(seed).generate_state(stream.max() + 1) >> 1
        self._halves = [
            h for h in np.array_split(np.arange(stream.size, dtype=np.int32), 2) if h.size
        ]
        self._make = lambda: [
            envpool.make(
                name,
                env_type="gymnasium",
                num_envs=half.size,
                seed=seeds[stream[half]].tolist(),
                max_episode_steps=horizon or task.horizon,
                **{"num_threads": len(os.sched_getaffinity(0)), **options},
            )
            for half in self._halves
        ]
        self._pools = self._make()
        self._calls = 0
        self._act = batched_act(policy, task, action_noise)
        self._features = task.observation_size * (1 + noise)
        self._jitters = len(task.action_low) if action_noise else 0
        self._observes = policy.observes

    def seek(self, calls: int) -> None:
        """Makes the next call number ``calls``."""
        if calls < self._calls:
            self._pools, self._calls = self._make(), 0
        for _ in range(calls - self._calls):
            for pool in self._pools:
                pool.reset()
        self._calls = calls

    def __call__(
        self, key: Key[Array, ""], members: Members, moments: normalize.Moments | None
    ) -> Evaluation:
        """Plays one episode in every slot, stepping only those that live.

        A population of more than ``queue.STORED_ENTRIES`` plays one part after the other.
        """
        self._calls += 1
        one = _own.eval_shape(members, np.zeros(1, np.int32))
        entries = sum(x.size for x in jax.tree.leaves(one))
        most = max(1, queue.STORED_ENTRIES // len(self._halves) // max(1, entries))
        returns, steps = np.zeros(self._shape), np.zeros(self._shape, np.int32)
        observed = []
        for first in range(0, len(self._halves[0]), most):
            games = [
                self._game(number, half[first : first + most], key, members, moments)
                for number, half in enumerate(self._halves)
                if first < len(half)
            ]
            while playing := [game for game in games if game.living.size]:
                for game in playing:
                    game.turn()
            for game in games:
                returns.flat[game.slots], steps.flat[game.slots] = game.returns, game.steps
                observed += [] if game.observed is None else [game.observed]
        return Evaluation(
            fitness=jnp.asarray(returns.mean(1), jnp.float32),
            steps=jnp.asarray(steps.sum(1)),
            simulated=jnp.asarray(steps.sum()),
            observed=functools.reduce(normalize.merge, observed) if observed else None,
        )

    def _game(
        self,
        number: int,
        slots: Int[np.ndarray, " slots"],
        key: Key[Array, ""],
        members: Members,
        moments: normalize.Moments | None,
    ) -> "_Game":
        """Some slots of one pool, begun."""
        words = [*np.asarray(jax.random.key_data(key)).tolist(), int(slots[0])]
        return _Game(
            self._pools[number],
            slots,
            slots - self._halves[number][0],
            functools.partial(self._act, members.params, moments),
            _own(members, slots // self._shape[1]),
            normalize.empty(self._features) if self._observes else None,
            np.random.SFC64(words),
            (self._features, self._jitters),
        )


make_host_evaluate = EnvpoolEvaluate


class _Game:
    """Episodes of some slots of one pool, as they are played.

    Attributes:
        slots: their numbers among all slots.
        living: rows of those whose episode goes on.
        returns: so far, of every slot.
        steps: done, of every slot.
        observed: moments of what the policies acted on.
    """

    def __init__(
        self,
        pool: Any,
        slots: Int[np.ndarray, " slots"],
        ids: Int[np.ndarray, " slots"],
        act: Callable[..., tuple[Array, normalize.Moments | None]],
        own: Any,
        observed: normalize.Moments | None,
        bits: np.random.BitGenerator,
        widths: tuple[int, int],
    ) -> None:
        """Resets every slot and sets the simulator to work on the first actions."""
        self._pool, self._ids, self._act, self._own, self._bits = pool, ids, act, own, bits
        self.slots, size = slots, len(slots)
        self.living = np.arange(size)
        self.returns, self.steps = np.zeros(size), np.zeros(size, np.int32)
        self.observed = observed
        self._rows = self.living  # of the batch below, in which the policy sees the living
        self._seen, self._jitter = (np.zeros((size, width), np.float32) for width in widths)
        observation, _ = self._pool.reset(ids)
        self._send(observation)

    def turn(self) -> None:
        """Takes in what the simulator has done, and sets it to work on the next actions."""
        observation, reward, terminated, truncated, _ = self._pool.recv()
        self.returns[self.living] += reward
        self.steps[self.living] += 1
        alive = ~(terminated | truncated)
        self.living, self._rows = self.living[alive], self._rows[alive]
        if self.living.size:
            self._send(observation[alive])

    def _send(self, observation: Float[np.ndarray, "living o"]) -> None:
        if self.living.size <= len(self._seen) // 2 and len(self._seen) > SMALLEST_BATCH:
            self._shrink(max(-(-len(self._seen) // 2), SMALLEST_BATCH))
        rows, size = self._rows, observation.shape[1]
        noise, jitter = (self._seen.shape[1] - size, self._jitter.shape[1])
        self._seen[rows, :size] = observation
        self._seen[rows, size:] = normals(self._bits, (rows.size, noise))
        self._jitter[rows] = normals(self._bits, (rows.size, jitter))
        counted = np.zeros(len(self._seen), bool)
        counted[rows] = True
        action, self.observed = self._act(
            self._own, self._seen, self._jitter, self.observed, counted
        )
        self._pool.send(np.asarray(action)[rows].astype(np.float64), self._ids[self.living])

    def _shrink(self, size: int) -> None:
        chosen = np.resize(self._rows, size)
        self._own = _take(self._own, chosen)
        self._seen, self._jitter = self._seen[chosen], self._jitter[chosen]
        self._rows = np.arange(self.living.size)


@jax.jit
def _own(members: Members, indices: Int[Array, " slot"]) -> Any:
    return jax.vmap(members.own)(indices)


@jax.jit
def _take(tree: Any, rows: Int[Array, " rows"]) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)
