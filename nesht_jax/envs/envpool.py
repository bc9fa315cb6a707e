"""Gymnasium's MuJoCo tasks and Atari games in envpool, a pool of simulators stepped on the host.

Only living episodes are stepped, and the policy acts for one half of them while the other half is
simulated. MuJoCo pools are float64: their observations are cast on the host, and envpool's own XLA
interface, which corrupts memory outside 64-bit mode, is never used.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Real

from nesht_jax import normalize
from nesht_jax.contract import Evaluation, Members
from nesht_jax.envs import noisy, queue
from nesht_jax.envs.envpool_tasks import Task, make_task
from nesht_jax.envs.envpool_tasks import names as names
from nesht_jax.envs.envpool_tasks import random_observations as random_observations
from nesht_jax.envs.host import batched_act, normals
from nesht_jax.envs.task import TaskOptions, TaskSpec
from nesht_jax.policy import Policy

SMALLEST_BATCH = 8
"""Policy batches are not shrunk below this: a smaller one is not faster."""


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task.

    Raises:
        ValueError: if there is no such option, it has no such value, or the room itself sets it.
    """
    return make_task(name, options).spec


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
        self._task = task = make_task(name, options)
        horizon = horizon or task.spec.horizon
        if horizon is not None and horizon < task.shortest:
            raise ValueError(
                f"a horizon of {horizon} steps is shorter than the no-op start of {name}: "
                f"give it at least {task.shortest}"
            )
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
                max_episode_steps=horizon,
                **{"num_threads": len(os.sched_getaffinity(0)), **task.options},
            )
            for half in self._halves
        ]
        self._pools = self._make()
        self._calls = 0
        self._act = batched_act(policy, task.spec, action_noise, task.scale)
        self._features = task.spec.observation_size * (1 + noise)
        self._jitters = noisy.jitters(task.spec, action_noise=action_noise, samples=policy.samples)
        self._policy = policy

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
        members = self._policy.prepare(members)
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
            self._task,
            self._pools[number],
            slots,
            slots - self._halves[number][0],
            functools.partial(self._act, members.params, moments),
            _own(members, slots // self._shape[1]),
            normalize.empty(self._features) if self._policy.observes else None,
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
        task: Task,
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
        self._task, self._pool, self._ids, self._bits = task, pool, ids, bits
        self._act, self._own = act, own
        self.slots, size = slots, len(slots)
        self.living = np.arange(size)
        self.returns, self.steps = np.zeros(size), np.zeros(size, np.int32)
        self.observed = observed
        self._rows = self.living  # of the batch below, in which the policy sees the living
        features, jitters = widths
        self._seen = np.zeros((size, features), task.dtype)
        self._jitter = np.zeros((size, jitters), np.float32)
        observation, info = self._pool.reset(ids)
        self._send(task.observe(observation, info, bits))

    def turn(self) -> None:
        """Takes in what the simulator has done, and sets it to work on the next actions."""
        observation, reward, terminated, truncated, info = self._pool.recv()
        self.returns[self.living] += reward
        self.steps[self.living] += 1
        alive = ~(terminated | truncated)
        self.living, self._rows = self.living[alive], self._rows[alive]
        if self.living.size:
            self._send(self._task.observe(observation, info, self._bits)[alive])

    def _send(self, observation: Real[np.ndarray, "living o"]) -> None:
        if self.living.size <= len(self._seen) // 2 and len(self._seen) > SMALLEST_BATCH:
            self._shrink(max(-(-len(self._seen) // 2), SMALLEST_BATCH))
        rows, size = self._rows, observation.shape[1]
        noise, jitter = (self._seen.shape[1] - size, self._jitter.shape[1])
        self._seen[rows, :size] = observation
        self._seen[rows, size:] = self._task.noise(self._bits, (rows.size, noise))
        self._jitter[rows] = normals(self._bits, (rows.size, jitter))
        counted = np.zeros(len(self._seen), bool)
        counted[rows] = True
        action, self.observed = self._act(
            self._own, self._seen, self._jitter, self.observed, counted
        )
        self._pool.send(self._task.act(np.asarray(action)[rows]), self._ids[self.living])

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
