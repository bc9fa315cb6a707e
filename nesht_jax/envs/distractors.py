"""What is random between simulator and policy: distractor features, and noise on actions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from nesht_jax.es.noise import normal
from nesht_jax.types import Task

SCALE = 10
"""Standard deviation of scaled distractors."""

PERIOD = 20
"""Steps in which a slow distractor turns from one draw into the next."""


def append(
    observation: Float[Array, " o"],
    task: Task,
    random_bits: UInt32[Array, "2"],
    step: Int[Array, ""],
    last_action: Float[Array, " _"],
) -> Float[Array, " features"]:
    """Gives what a policy sees: the true observation, then N·o distractors.

    Args:
        observation: true observation, as the simulator tells it.
        task: task whose distractors they are, of a kind that needs no play.
        random_bits: bits of the episode alone, so that distractors are independent across episodes
            and features.
        step: steps done in the episode.
        last_action: what was done in the step before, see ``no_action``.
    """
    if task.distractors == 0:
        return observation
    shape = (task.distractors * observation.shape[0],)
    if task.distractor_kind == "slow":
        block, cosine, sine = slow_angle(step)
        before, after = (normal(random_bits, block + i, shape) for i in (0, 1))
        features = cosine * before + sine * after
    else:
        features = normal(random_bits, step, shape)
    if task.distractor_kind == "scaled":
        features = SCALE * features
    if task.distractor_kind == "driven":
        features = jnp.resize(last_action, shape) + features
    return jnp.concatenate([observation, features])


def no_action(task: Task) -> Float[Array, " _"]:
    """Gives the last action of an episode that begins: zeros, and none where no distractor is of
    kind ``driven``."""
    driven = task.distractors and task.distractor_kind == "driven"
    return jnp.zeros(task.num_actions if driven else 0, jnp.float32)


def slow_angle(step: Any) -> tuple[Any, Any, Any]:
    """Places a step between two independent N(0, 1) numbers z: cos α z_b + sin α z_{b+1}.

    That is N(0, 1) at every step, and α grows from 0 to π/2 within ``PERIOD`` steps.

    Returns:
        b, cos α and sin α.
    """
    numpy = jnp if isinstance(step, jax.Array) else np
    angle = np.pi / 2 * (step % PERIOD) / PERIOD
    return step // PERIOD, numpy.cos(angle), numpy.sin(angle)


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
