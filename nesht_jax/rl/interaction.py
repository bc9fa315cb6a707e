"""An agent that acts and learns in environments written in JAX, in one compiled loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from nesht_jax.envs import distractors
from nesht_jax.envs.suite import Environment
from nesht_jax.rl.agent import Agent, AgentState, Experience, Metrics
from nesht_jax.types import Task


class Episode(NamedTuple):
    """One environment in its episode; under ``vmap``, all of them.

    Attributes:
        key: seed of the environment, never consumed: every episode folds its number in.
        number: episodes of the environment before this one.
        random_bits: bits of the episode alone, for its distractors.
        simulator: state of the simulator.
        observation: what the agent sees now, distractors included.
        steps: steps done in the episode.
        returns: undiscounted return of the episode so far.
    """

    key: Key[Array, "*e"]
    number: Int[Array, "*e"]
    random_bits: UInt32[Array, "*e 2"]
    simulator: Any
    observation: Float[Array, "*e o"]
    steps: Int[Array, "*e"]
    returns: Float[Array, "*e"]


class EnvState(NamedTuple):
    """All environments between two steps; with the agent's state, a checkpoint.

    Attributes:
        key: seed of the agent's exploration, never consumed: every step folds its number in.
        step: steps that every environment has done.
        episodes: the episode of each environment, leading axis e.
    """

    key: Key[Array, ""]
    step: Int[Array, ""]
    episodes: Episode


class Progress(NamedTuple):
    """What some steps brought.

    Attributes:
        episodes: number of episodes that ended in them.
        returns: sum of the undiscounted returns of these episodes.
        failed: number of these episodes that failed: shown or paid what is not a finite number.
        metrics: metrics of the agent: means over the steps that have them, NaN if none has; of
            truth values whether all are true.
    """

    episodes: Int[Array, ""]
    returns: Float[Array, ""]
    failed: Int[Array, ""]
    metrics: Metrics


class Interaction(NamedTuple):
    """The pure functions of an agent in its environments; see ``make_interaction``.

    Attributes:
        init: key -> environments at the first step of their first episodes; the key is consumed.
        steps: (agent's state, environments, n) -> (agent's state, environments, progress) after n
            steps of every environment. To be jitted with n static, and the states donated.
    """

    init: Callable[[Key[Array, ""]], EnvState]
    steps: Callable[[AgentState, EnvState, int], tuple[AgentState, EnvState, Progress]]


def make_interaction(task: Task, agent: Agent, *, num_envs: int) -> Interaction:
    """Makes the loop: every environment steps, the agent learns, ended episodes begin anew.

    The agent is given what a step led to before the environment is reset. An episode that reaches
    the task's horizon is truncated, unless the task ended it in that step. One that shows or pays
    what is not a finite number has failed: it terminates there, and the agent is told that the step
    paid nothing and changed nothing.

    Args:
        task: task whose simulator is written in JAX.
        agent: agent made for this task, or for one of the same sizes.
        num_envs: environments that step together.

    Raises:
        ValueError: if the task's simulator steps outside JAX, or there is no environment.
    """
    if not isinstance(task.simulator, Environment):
        raise ValueError(f"{task.name} steps outside JAX: HostInteraction steps it")
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    # jitted, so that the loops around them do not trace a simulator again and again
    reset, simulate = jax.jit(task.simulator.reset), jax.jit(task.simulator.step)

    def begin(key: Key[Array, ""], number: Int[Array, ""]) -> Episode:
        reset_key, bits_key = jax.random.split(jax.random.fold_in(key, number))
        random_bits = jax.random.bits(bits_key, (2,), jnp.uint32)
        simulator, observation = reset(reset_key)
        steps, returns = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
        idle = distractors.no_action(task)
        seen = distractors.append(observation, task, random_bits, steps, idle)
        seen = jnp.where(jnp.isfinite(seen), seen, 0)
        return Episode(key, number, random_bits, simulator, seen, steps, returns)

    def move(
        episode: Episode, action: Float[Array, " a"]
    ) -> tuple[Episode, Experience, Bool[Array, ""]]:
        done = within_bounds(task, action)
        after = simulate(episode.simulator, done)
        steps = episode.steps + 1
        seen = distractors.append(after.observation, task, episode.random_bits, steps, done)
        failed = ~(jnp.isfinite(seen).all() & jnp.isfinite(after.reward))
        terminated = after.terminated | failed
        cut = jnp.asarray(False) if task.horizon is None else steps >= task.horizon
        experience = Experience(
            observation=episode.observation,
            action=action,
            reward=jnp.where(failed, 0, after.reward),
            next_observation=jnp.where(failed, episode.observation, seen),
            terminated=terminated,
            truncated=cut & ~terminated,
        )
        moved = episode._replace(
            simulator=after.state,
            observation=experience.next_observation,
            steps=steps,
            returns=episode.returns + experience.reward,
        )
        return moved, experience, failed

    def renew(episode: Episode, over: Bool[Array, ""]) -> Episode:
        fresh = begin(episode.key, episode.number + 1)
        return jax.tree.map(partial(jnp.where, over), fresh, episode)

    def init(key: Key[Array, ""]) -> EnvState:
        own_key, key = jax.random.split(key)
        keys, zero = jax.random.split(key, num_envs), jnp.zeros((), jnp.int32)
        return EnvState(own_key, zero, jax.vmap(begin, (0, None))(keys, zero))

    def step(carry: tuple[AgentState, EnvState], _: None) -> tuple[Any, Any]:
        state, (key, number, episodes) = carry
        actions = agent.act(state, jax.random.fold_in(key, number), episodes.observation)
        episodes, experience, failed = jax.vmap(move)(episodes, actions)
        state, metrics = agent.learn(state, experience)
        over = experience.terminated | experience.truncated
        returns = jnp.where(over, episodes.returns, 0).sum()
        ended = over.sum(dtype=jnp.int32), returns, failed.sum(dtype=jnp.int32)
        # a reset may cost more than many steps
        episodes = jax.lax.cond(
            over.any(), jax.vmap(renew), lambda episodes, _: episodes, episodes, over
        )
        return (state, EnvState(key, number + 1, episodes)), (*ended, metrics)

    def steps(state: AgentState, envs: EnvState, n: int) -> tuple[AgentState, EnvState, Progress]:
        carry, (*told, metrics) = jax.lax.scan(step, (state, envs), length=n)
        episodes, returns, failed = (x.sum(dtype=x.dtype) for x in told)
        progress = Progress(episodes, returns, failed, summary(metrics))
        return *carry, progress

    return Interaction(init, steps)


def within_bounds(task: Task, action: Float[Array, "*envs a"]) -> Float[Array, "*envs a"]:
    """Gives the action that the simulator gets: none leaves finite bounds."""
    no_noise = jnp.zeros((*action.shape[:-1], 0), jnp.float32)
    return distractors.act(action, no_noise, task, action_noise=0.0, stochastic=False)


def summary(metrics: Metrics) -> Metrics:
    """Summarizes metrics of many steps, see ``Progress``."""
    return {
        name: values.all() if values.dtype == bool else jnp.nanmean(values)
        for name, values in metrics.items()
    }
