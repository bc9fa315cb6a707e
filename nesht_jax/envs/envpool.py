"""Gymnasium's MuJoCo tasks in envpool, a pool of C++ simulators stepped on the host.

Only living episodes are stepped. The pool is float64: its observations are cast on the host, and
its own XLA interface, which corrupts memory outside 64-bit mode, is never used.
"""

import difflib
import os

import envpool
import jax
import jax.numpy as jnp
import numpy as np
from envpool.registration import registry
from jaxtyping import Array, Float, Int, Key

from nesht_jax import normalize
from nesht_jax.contract import Evaluation, Member, Params
from nesht_jax.envs.rollout import episode_keys, make_act
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
    """One slot of the pool for every (member, rollout); each call resets every slot once.

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
        self._make = lambda: envpool.make(
            name,
            env_type="gymnasium",
            num_envs=stream.size,
            seed=seeds[stream].tolist(),
            max_episode_steps=horizon or task.horizon,
            **{"num_threads": len(os.sched_getaffinity(0)), **options},
        )
        self._pool = self._make()
        self._calls = 0
        self._act = _batched_act(policy, task, noise, action_noise)
        self._prepare = _prepare(num_members, rollouts)
        self._features = task.observation_size * (1 + noise)
        self._observes = policy.observes

    def seek(self, calls: int) -> None:
        """Makes the next call number ``calls``."""
        if calls < self._calls:
            self._pool, self._calls = self._make(), 0
        for _ in range(calls - self._calls):
            self._pool.reset()
        self._calls = calls

    def __call__(
        self, key: Key[Array, ""], member: Member, moments: normalize.Moments | None
    ) -> Evaluation:
        """Plays one episode in every slot, stepping only those that live."""
        self._calls += 1
        params, keys = self._prepare(member, key)
        observed = normalize.empty(self._features) if self._observes else None
        living = np.arange(self._shape[0] * self._shape[1], dtype=np.int32)
        returns, steps = np.zeros(living.size), np.zeros(living.size, np.int32)

        observation, _ = self._pool.reset()
        rows, batch = living, np.asarray(observation, np.float32)
        while living.size:
            if living.size <= len(batch) // 2 and len(batch) > SMALLEST_BATCH:
                size = max(-(-len(batch) // 2), SMALLEST_BATCH)
                params, keys = _take((params, keys), np.resize(rows, size))
                rows, batch = np.arange(living.size), batch[np.resize(rows, size)]
            counted = np.zeros(len(batch), bool)
            counted[rows] = True
            action, observed = self._act(
                params, moments, batch, keys, steps[living[0]], observed, counted
            )
            observation, reward, terminated, truncated, _ = self._pool.step(
                np.asarray(action, np.float64)[rows], living
            )
            returns[living] += reward
            steps[living] += 1
            alive = ~(terminated | truncated)
            living, rows = living[alive], rows[alive]
            batch[rows] = observation[alive]

        return Evaluation(
            fitness=jnp.asarray(returns.reshape(self._shape).mean(1), jnp.float32),
            steps=jnp.asarray(steps.reshape(self._shape).sum(1)),
            simulated=jnp.asarray(steps.sum()),
            observed=observed,
        )


make_host_evaluate = EnvpoolEvaluate


def _prepare(num_members: int, rollouts: int):
    """Jitted: (member, key) -> params and episode keys of every slot, leading axis slot."""

    @jax.jit
    def prepare(member: Member, key: Key[Array, ""]) -> tuple[Params, Key[Array, " slot"]]:
        params = jax.vmap(member)(jnp.arange(num_members))
        params = jax.tree.map(lambda x: jnp.repeat(x, rollouts, axis=0), params)
        slots = jnp.arange(num_members * rollouts)
        keys = jax.vmap(
            lambda s: episode_keys(key, s // rollouts, s % rollouts, common_random_numbers=False)[1]
        )(slots)
        return params, keys

    return prepare


@jax.jit
def _take(tree: Params, rows: Int[Array, " rows"]) -> Params:
    return jax.tree.map(lambda x: x[rows], tree)


def _batched_act(policy: Policy, task: TaskSpec, noise: int, action_noise: float):
    """Jitted: the actions of a batch of slots, and the moments with what they saw."""
    act = make_act(policy, task, noise=noise, action_noise=action_noise)

    @jax.jit
    def batched(
        params: Params,
        moments: normalize.Moments | None,
        observation: Float[Array, "slot o"],
        keys: Key[Array, " slot"],
        step: Int[Array, ""],
        observed: normalize.Moments | None,
        counted: Array,
    ) -> tuple[Float[Array, "slot a"], normalize.Moments | None]:
        every = jax.vmap(act, (0, None, 0, 0, None))
        seen, action = every(params, moments, observation, keys, step)
        if observed is not None:
            observed = normalize.merge(observed, normalize.of_batch(seen, counted))
        return action, observed

    return batched
