"""What is random between simulator and policy: distractor features, and noise on actions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from nesht_jax.es.noise import normal
from nesht_jax.types import Task


def append(
    observation: Float[Array, " o"],
    distractors: int,
    random_bits: UInt32[Array, "2"],
    step: Int[Array, ""],
) -> Float[Array, " features"]:
    """Gives what a policy sees: the true observation, then N·o fresh N(0, 1) features.

    Args:
        observation: true observation, as the simulator tells it.
        distractors: N, the number of distractor segments, each as long as the observation.
        random_bits: bits of the episode alone, so that distractors are independent across episodes,
            steps and features.
        step: steps done in the episode.
    """
    if distractors == 0:
        return observation
    features = normal(random_bits, step, (distractors * observation.shape[0],))
    return jnp.concatenate([observation, features])


def num_action_normals(task: Task, action_noise: float, stochastic: bool) -> int:
    """Counts the N(0, 1) numbers that one action consumes."""
    return task.num_actions if action_noise or stochastic else 0


def act(
    action: Float[Array, "*envs a"],
    action_normals: Float[Array, "*envs _"],
    task: Task,
    *,
    action_noise: float,
    stochastic: bool,
) -> Float[Array, "*envs a"]:
    """Turns what a policy says into what it does: no action leaves finite bounds.

    Args:
        action: what the policy says, an action or a score of each choice.
        action_normals: N(0, 1) numbers, as many as ``num_action_normals`` counts.
        task: task whose bounds hold.
        action_noise: standard deviation of the Gaussian noise added, in units of the action.
        stochastic: whether scores get Gumbel noise, after which the highest is a draw from their
            softmax (Gumbel 1954).
    """
    if stochastic:
        # the Gumbel quantile of a normal's own probability is Gumbel noise
        return action - jnp.log(-jax.scipy.special.log_ndtr(action_normals))
    if action_noise:
        action = action + action_noise * action_normals
    bounds = task.action_low, task.action_high
    if not np.isfinite(bounds).any():
        return action
    shape = (1,) * (action.ndim - 1) + (-1,)
    low, high = (np.asarray(bound, np.float32).reshape(shape) for bound in bounds)
    return jnp.clip(action, low, high)
