"""Any environment that Gymnasium knows, stepped on the host, in this process or in others.

Resets and distractors are drawn from the generation's key and the number of the episode alone:
nothing is carried from call to call, and no return depends on the number of environments, but for
the order in which a batch of another size is summed. An environment that draws from a global random
state in place of its seed depends on the key and on the number of environments.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.envs import distractors
from nesht_jax.envs.gymnasium.batch import EpisodeBatch, fresh_distractors
from nesht_jax.envs.gymnasium.simulator import Simulator, seeded_globals
from nesht_jax.envs.gymnasium.stage import make_stage
from nesht_jax.envs.gymnasium.tasks import make, names, resolve
from nesht_jax.envs.gymnasium.vector import GymnasiumVector
from nesht_jax.envs.host import (
    batched_act,
    cores,
    mean_returns,
    random_play,
    reset_streams,
)
from nesht_jax.envs.host_distractors import HostDistractors, random_play_for
from nesht_jax.envs.host_stage import HostStage
from nesht_jax.envs.suite import Suite
from nesht_jax.types import Evaluation, Moments, Policy, Population, Task

NUM_ENVS = 16
"""Environments stepped at once in one process: enough to hide the call of the policy."""

NUM_ENVS_A_CORE = 4
"""Environments for each core where each has a process of its own, and every message costs."""


class GymnasiumEvaluate:
    """Plays a queue of episodes: an environment whose episode ends takes the next one that waits.

    Its environments are shared with every other ``Evaluate`` of the task.
    """

    def __init__(
        self,
        task: Task,
        policy: Policy,
        *,
        num_members: int,
        episodes_per_member: int = 1,
        action_noise: float = 0.0,
        common_random_numbers: bool = False,
        num_envs: int | None = None,
        seed: int = 0,
    ) -> None:
        del seed  # all that is drawn here is drawn from the key
        self._task, self._policy = task, policy
        self._simulator: Simulator = task.simulator
        self._shape = (num_members, episodes_per_member)
        self._streams = reset_streams(*self._shape, common_random_numbers=common_random_numbers)
        usual = NUM_ENVS_A_CORE * cores() if self._simulator.mode == "async" else NUM_ENVS
        self._num_envs = min(num_envs or usual, num_members * episodes_per_member)
        self._simulator.shared(self._num_envs)  # what cannot be made is told at once
        fresh = fresh_distractors(task)
        self._played = random_play_for(task, fresh, _reference_observations)
        self._act = batched_act(policy, task, action_noise=action_noise)
        self._num_normals = distractors.num_action_normals(task, action_noise, policy.stochastic)
        # of its own, so that what is compiled for a population goes with the room
        self._draw = jax.jit(functools.partial(_draw))

    def seek(self, calls: int) -> None:
        """Does nothing: a call is a function of its key."""

    def close(self) -> None:
        """Frees the environments; another call makes them anew."""
        self._simulator.close()

    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        """Plays every episode once.

        Raises:
            SimulatorError: from whatever an environment raises.
        """
        entropy = [*np.asarray(jax.random.key_data(key)).tolist(), int(population.first)]
        (seed,) = np.random.SeedSequence(entropy, spawn_key=(2,)).generate_state(1)
        task = self._task
        if horizon is not None and task.horizon is not None:
            task = dataclasses.replace(task, horizon=min(int(horizon), task.horizon))
        try:
            with seeded_globals(int(seed)):
                return self._play(task, entropy, self._policy.prepare(population), moments)
        except BaseException:
            # processes that wait for each other are not asked to end
            self._simulator.close(terminate=True)
            raise

    def _play(
        self, task: Task, entropy: list[int], population: Population, moments: Moments | None
    ) -> Evaluation:
        batch = EpisodeBatch(
            task,
            GymnasiumVector(task, self._simulator.shared(self._num_envs), self._num_envs),
            entropy=entropy,
            streams=self._streams,
            num_normals=self._num_normals,
            played=self._played,
        )
        observed = Moments.empty(self._task.num_features) if self._policy.uses_moments else None
        drawn = None
        while batch.busy.any():
            if batch.changed.any():
                drawn = self._draw(
                    population, drawn, batch.changed, batch.episode // self._shape[1]
                )
            action, observed = self._act(
                population.assemble,
                moments,
                drawn,
                batch.seen,
                batch.action_normals,
                observed,
                batch.busy,
            )
            batch.step(np.asarray(action))
        steps = batch.steps.reshape(self._shape)
        return Evaluation(
            fitness=mean_returns(batch.returns.reshape(self._shape)),
            steps=jnp.asarray(steps.sum(1)),
            simulated_steps=jnp.asarray(steps.sum()),
            observed=observed,
            terminated_at=jnp.asarray(steps * batch.terminated.reshape(self._shape)),
        )


def _draw(
    population: Population,
    drawn: Any,
    changed: Bool[Array, " envs"],
    indices: Int[Array, " envs"],
) -> Any:
    """What every environment's member has drawn, made anew, one by one, where it has changed."""
    if drawn is None:
        return jax.lax.map(population.draw, indices)

    def one(env: tuple[Any, Array, Array]) -> Any:
        before, change, i = env
        return jax.lax.cond(change, lambda: population.draw(i), lambda: before)

    return jax.lax.map(one, (drawn, changed, indices))


def _vector(task: Task, num_envs: int, seed: int) -> GymnasiumVector:
    return GymnasiumVector(task, task.simulator.separate(num_envs), num_envs, seed=seed)


def _reference_observations(
    task: Task, number: int, seed: int
) -> Float[np.ndarray, "number features"]:
    # of the shared pool, so that a simulator that allows one instance has them too
    vector = GymnasiumVector(task, task.simulator.shared(1), 1, seed=seed)
    with seeded_globals(seed):
        seen = random_play(vector, task, number=number, seed=seed)
    added = _distractors(task, number).draw(np.random.SFC64(seed), np.arange(number), 0)
    return np.concatenate([seen, added], axis=1)


def _distractors(task: Task, num_envs: int) -> HostDistractors:
    fresh = fresh_distractors(task)
    played = random_play_for(task, fresh, _reference_observations)
    return HostDistractors(task, num_envs, fresh, played)


def _stage(task: Task, seed: int) -> HostStage:
    return make_stage(task, _distractors(task, 1), seed=seed)


SUITE = Suite(
    names,
    make,
    resolve=resolve,
    host_evaluate=GymnasiumEvaluate,
    vector=_vector,
    reference_observations=_reference_observations,
    distractors=_distractors,
    stage=_stage,
)
