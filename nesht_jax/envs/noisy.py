"""Noise of every room: task-irrelevant features, and what makes an action random."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from nesht_jax.envs.task import TaskSpec
from nesht_jax.noise import normal


def observe(
    observation: Float[Array, " o"], noise: int, words: UInt32[Array, "2"], step: Int[Array, ""]
) -> Float[Array, " features"]:
    """The true observation, followed by N·o fresh N(0, 1) features.

    Args:
        observation: of the task itself.
        noise: N, how many noise segments as long as the observation follow it.
        words: the episode's own: features are independent across episodes, steps and features.
        step: steps done in the episode.
    """
    if noise == 0:
        return observation
    features = normal(words, step, (noise * observation.shape[0],))
    return jnp.concatenate([observation, features])


def jitters(task: TaskSpec, *, action_noise: float, samples: bool) -> int:
    """How many N(0, 1) an action takes."""
    return len(task.action_low) if action_noise or samples else 0


def act(
    action: Float[Array, "*slots a"],
    jitter: Float[Array, "*slots _"],
    task: TaskSpec,
    *,
    action_noise: float,
    samples: bool,
) -> Float[Array, "*slots a"]:
    """What a policy does, from what it says and N(0, 1) for each component.

    Args:
        action: of the policy.
        jitter: as many as ``jitters`` says.
        task: gives the bounds.
        action_noise: standard deviation of what is added to an action.
        samples: actions are scores; the highest after adding Gumbel noise is a draw from their
            softmax (Gumbel 1954). The Gumbel quantile of a normal's probability is such noise.
    """
    if samples:
        return action - jnp.log(-jax.scipy.special.log_ndtr(jitter))
    if action_noise:
        shape = (1,) * (action.ndim - 1) + (-1,)
        low, high = (bound.reshape(shape) for bound in (task.action_low, task.action_high))
        return jnp.clip(action + action_noise * jitter, low, high)
    return action
