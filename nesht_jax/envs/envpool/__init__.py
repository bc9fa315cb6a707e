"""Gymnasium's MuJoCo, classic control and Box2D tasks and Atari games in envpool, a pool of
simulators in C++.

It is there where envpool has a wheel: Linux x86-64, macOS arm64, Windows. Only living episodes are
stepped, and the policy acts for one half of them while the other half is simulated. MuJoCo pools
are float64: their observations are cast on the host, and envpool's own XLA interface, which
corrupts memory outside 64-bit mode, is never used.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from nesht_jax.envs import distractors, episode_queue
from nesht_jax.envs.envpool.batch import HalfBatch
from nesht_jax.envs.envpool.tasks import Simulator, make, names
from nesht_jax.envs.envpool.vector import EnvpoolVector
from nesht_jax.envs.host import batched_act, mean_returns, random_play, reset_streams
from nesht_jax.envs.host_distractors import HostDistractors, random_play_for
from nesht_jax.envs.host_stage import HostStage
from nesht_jax.envs.suite import Suite
from nesht_jax.types import Evaluation, Moments, Policy, Population, Task

ENLARGED = 5
"""Edge of a pixel of a game in a picture."""

FRAMES_A_SECOND = 60
"""Rate of Atari's emulator."""


class EnvpoolEvaluate:
    """Plays every episode in an environment of its own, half of them in each of two pools.

    Each call resets every environment once, by a draw of its own stream, so call c sees the c-th
    draw of every stream: ``seek`` gets there by resetting c times, at some ten microseconds each,
    a BipedalWalker's some hundred. Where steps draw as well, each call makes its pools anew.
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
        if num_envs is not None:
            raise ValueError(
                f"num_envs is for suites that play episodes from a queue, got {num_envs} for "
                f"{task.name}, which has an environment for every episode: leave it out"
            )
        self._task, self._policy = task, policy
        self._shape = (num_members, episodes_per_member)
        streams = reset_streams(*self._shape, common_random_numbers=common_random_numbers)
        self._seed, self._streams = seed, streams
        episodes = np.arange(streams.size, dtype=np.int32)
        self._halves = [half for half in np.array_split(episodes, 2) if half.size]
        self._vectors, self._calls, self._stale = self._make(), 0, False
        self._played = random_play_for(task, task.simulator.distractors, _reference_observations)
        scale = task.simulator.scale
        self._act = batched_act(policy, task, action_noise=action_noise, scale=scale)
        self._num_normals = distractors.num_action_normals(task, action_noise, policy.stochastic)
        # of its own, so that what is compiled for a population goes with the room
        self._draw = jax.jit(lambda population, indices: jax.vmap(population.draw)(indices))

    def _make(self, call: int = 0) -> list[EnvpoolVector]:
        root = np.random.SeedSequence(self._seed, spawn_key=(call,) if call else ())
        seeds = (root.generate_state(self._streams.max() + 1) >> 1)[self._streams]
        return [EnvpoolVector(self._task, seeds[half].tolist()) for half in self._halves]

    def seek(self, calls: int) -> None:
        """Makes the next call number ``calls``."""
        if self._task.simulator.steps_draw:
            self._stale, self._calls = True, calls
        elif calls < self._calls:
            self._remake(0)
        for _ in range(calls - self._calls):
            for vector in self._vectors:
                vector.begin(np.arange(vector.num_envs))
        self._calls = calls

    def _remake(self, calls: int) -> None:
        self.close()
        self._vectors, self._calls = self._make(calls), calls

    def close(self) -> None:
        """Frees the simulators."""
        for vector in self._vectors:
            vector.close()

    # what float32 cannot hold becomes inf there, which ends its episode
    @np.errstate(over="ignore", invalid="ignore")
    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        """Plays every episode, stepping only those that live.

        A population of more than ``episode_queue.STORED_ENTRIES`` plays one part after the other.
        """
        if self._stale and self._task.simulator.steps_draw:
            self._remake(self._calls)
        self._stale = True
        self._calls += 1
        population = self._policy.prepare(population)
        last = None if horizon is None else int(horizon)
        returns, steps = np.zeros(self._shape), np.zeros(self._shape, np.int32)
        terminated = np.zeros(self._shape, bool)
        observed, most = [], self._most(population)
        for first in range(0, len(self._halves[0]), most):
            batches = [
                self._begin(half, episodes[first : first + most], key, population, moments, last)
                for half, episodes in enumerate(self._halves)
                if first < len(episodes)
            ]
            while playing := [batch for batch in batches if batch.living.size]:
                for batch in playing:
                    batch.step()
            for batch in batches:
                returns.flat[batch.episodes] = batch.returns
                steps.flat[batch.episodes] = batch.steps
                terminated.flat[batch.episodes] = batch.terminated
                observed += [] if batch.observed is None else [batch.observed]
        return Evaluation(
            fitness=mean_returns(returns),
            steps=jnp.asarray(steps.sum(1)),
            simulated_steps=jnp.asarray(steps.sum()),
            observed=functools.reduce(Moments.merge, observed) if observed else None,
            terminated_at=jnp.asarray(steps * terminated),
        )

    def _most(self, population: Population) -> int:
        """Episodes of one half whose members are stored at once."""
        one = self._draw.eval_shape(population, np.zeros(1, np.int32))
        entries = sum(leaf.size for leaf in jax.tree.leaves(one))
        return max(1, episode_queue.STORED_ENTRIES // len(self._halves) // max(1, entries))

    def _begin(
        self,
        half: int,
        episodes: Int[np.ndarray, " envs"],
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        horizon: int | None,
    ) -> HalfBatch:
        vector = self._vectors[half]
        first = int(population.first) * self._shape[1] + int(episodes[0])
        entropy = [*np.asarray(jax.random.key_data(key)).tolist(), first]
        vector.stream = np.random.SFC64(entropy)
        num_features = self._task.num_features
        batch = HalfBatch(
            self._task,
            vector,
            horizon=horizon,
            act=functools.partial(self._act, population.assemble, moments),
            drawn=self._draw(population, episodes // self._shape[1]),
            observed=Moments.empty(num_features) if self._policy.uses_moments else None,
            action_normals=np.zeros((episodes.size, self._num_normals), np.float32),
            played=self._played,
        )
        batch.begin(episodes, ids=episodes - self._halves[half][0])
        return batch


def _vector(task: Task, num_envs: int, seed: int) -> EnvpoolVector:
    seeds = np.random.SeedSequence(seed).generate_state(num_envs) >> 1
    return EnvpoolVector(task, seeds.tolist(), seed=seed)


def _reference_observations(
    task: Task, number: int, seed: int
) -> Float[np.ndarray, "number features"]:
    vector, stream = EnvpoolVector(task, [seed], seed=seed), np.random.SFC64(seed)
    seen = random_play(vector, task, number=number, seed=seed)
    vector.close()
    added = _distractors(task, number).draw(stream, np.arange(number), 0)
    return np.concatenate([seen, added], axis=1)


def _distractors(task: Task, num_envs: int) -> HostDistractors:
    simulator: Simulator = task.simulator
    played = random_play_for(task, simulator.distractors, _reference_observations)
    fresh = functools.partial(_scaled, simulator.distractors, np.float32(simulator.scale))
    return HostDistractors(task, num_envs, fresh, played)


def _stage(task: Task, seed: int) -> HostStage | None:
    """Of a game the newest of the frames that a policy sees, enlarged."""
    if task.image_shape is None:
        return None
    simulator: Simulator = task.simulator
    shape, scale = task.image_shape, np.float32(simulator.scale)

    def draw(shown: Float[np.ndarray, " o"]) -> UInt8[np.ndarray, "height width 3"]:
        frame = np.rint(shown.reshape(shape)[-1] / scale).astype(np.uint8)
        large = frame.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        return np.stack([large] * 3, axis=-1)

    return HostStage(
        task,
        _vector(task, 1, seed),
        _distractors(task, 1),
        draw,
        seconds=(task.frame_skip or 1) / FRAMES_A_SECOND,
        seed=seed,
    )


def _scaled(fresh: Any, scale: np.float32, stream: Any, shape: tuple[int, ...]) -> np.ndarray:
    return scale * fresh(stream, shape).astype(np.float32)


SUITE = Suite(
    names,
    make,
    host_evaluate=EnvpoolEvaluate,
    vector=_vector,
    reference_observations=_reference_observations,
    distractors=_distractors,
    stage=_stage,
)
