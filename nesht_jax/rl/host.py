"""An agent that acts and learns in environments stepped outside JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.envs.suite import VectorEnv
from nesht_jax.rl.agent import Agent, AgentState, Experience, Metrics
from nesht_jax.rl.interaction import Progress, summary, within_bounds
from nesht_jax.types import Task


class HostInteraction:
    """Steps a ``VectorEnv`` for an agent, as ``make_interaction`` does environments in JAX.

    Args:
        task: task of the environments; their horizon is the vector's business.
        agent: agent made for this task.
        vector: environments, which begin their first episodes here.
        seed: seed of the agent's exploration and of the distractors; the resets are the vector's.
        distractors: what draws the distractors of the task, a row an environment; None without any.

    Raises:
        ValueError: if the task has distractors, and nothing draws them.
    """

    def __init__(
        self,
        task: Task,
        agent: Agent,
        vector: VectorEnv,
        *,
        seed: int,
        distractors: HostDistractors | None = None,
    ) -> None:
        if task.distractors and distractors is None:
            raise ValueError(
                f"{task.name} has distractors: give HostInteraction distractors=, what draws them"
            )
        self._vector, self._distractors, self._seed = vector, distractors, seed
        self._size, num_envs = task.observation_size, vector.num_envs
        self._key, self._step = jax.random.key(seed, impl="threefry2x32"), 0
        self._episode = np.full(num_envs, -1)
        self._bits: list[Any] = [None] * num_envs
        self._steps = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._seen = np.zeros((num_envs, task.num_features), np.float32)
        self._begin(np.arange(num_envs))

        @jax.jit
        def act(
            state: AgentState, key: Key[Array, ""], step: Any, seen: Float[Array, "e o"]
        ) -> tuple[Float[Array, "e a"], Float[Array, "e a"]]:
            actions = agent.act(state, jax.random.fold_in(key, step), seen)
            return actions, within_bounds(task, actions)

        self._act = act
        self._learn = jax.jit(agent.learn, donate_argnums=0)

    def steps(self, state: AgentState, n: int) -> tuple[AgentState, Progress]:
        """Does n steps in every environment; the agent's state is donated, and gone.

        Returns:
            The agent's state after them, and what they brought.
        """
        returns: list[float] = []
        failures, metrics = 0, []
        for _ in range(n):
            state, ended, failed, told = self._one(state)
            returns += ended
            failures += failed
            metrics.append(told)
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *metrics)
        total = jnp.float32(sum(returns))
        ended, failed = jnp.int32(len(returns)), jnp.int32(failures)
        return state, Progress(ended, total, failed, summary(stacked))

    def _one(self, state: AgentState) -> tuple[AgentState, list[float], int, Metrics]:
        ids, before = np.arange(self._vector.num_envs), self._seen.copy()
        actions, played = self._act(state, self._key, self._step, before)
        done = np.asarray(played)
        after = self._vector.step(done, ids)
        self._step += 1
        self._steps += 1
        if self._distractors is not None:
            self._distractors.acted(ids, done)
        self._look(ids, after.observation)
        with np.errstate(over="ignore"):
            reward = after.reward.astype(np.float32)
        failed = ~(np.isfinite(self._seen).all(1) & np.isfinite(reward))
        reward[failed], self._seen[failed] = 0, before[failed]
        self._returns += reward
        terminated = after.terminated | failed
        experience = Experience(
            observation=before,
            action=actions,
            reward=reward,
            next_observation=self._seen.copy(),
            terminated=terminated,
            truncated=after.truncated & ~terminated,
        )
        state, metrics = self._learn(state, experience)
        over = np.flatnonzero(terminated | after.truncated)
        returns = self._returns[over].tolist()
        self._begin(over)
        return state, returns, int(failed.sum()), metrics

    def _begin(self, ids: Int[np.ndarray, " envs"]) -> None:
        """Resets these environments, and draws the seeds of what is random in their episodes."""
        if not ids.size:
            return
        self._episode[ids] += 1
        self._steps[ids], self._returns[ids] = 0, 0
        for i in ids:
            entropy = np.random.SeedSequence(self._seed, spawn_key=(int(i), int(self._episode[i])))
            self._bits[i] = np.random.SFC64(entropy)
        self._look(ids, self._vector.reset(ids))
        self._seen[ids] = np.where(np.isfinite(self._seen[ids]), self._seen[ids], 0)

    def _look(self, ids: Int[np.ndarray, " envs"], shown: Float[np.ndarray, "envs o"]) -> None:
        """Puts together what the agent sees in these environments now."""
        self._seen[ids, : self._size] = shown
        if self._distractors is None:
            return
        for i in ids:
            row, step = np.array([i]), int(self._steps[i])
            self._seen[i, self._size :] = self._distractors.draw(self._bits[i], row, step)[0]
