"""Generalized advantage estimation, with values after time limits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def advantages_of(
    rewards: Float[Array, "t e"],
    values: Float[Array, "t e"],
    next_values: Float[Array, "t e"],
    *,
    terminated: Bool[Array, "t e"],
    truncated: Bool[Array, "t e"],
    discount: float,
    trace: float,
) -> Float[Array, "t e"]:
    """Computes A_t = δ_t + γ λ A_{t+1}, δ_t = r_t + γ V(s'_t) - V(s_t), backwards in time.

    V(s'_t) counts as 0 where the step terminated its episode; A_{t+1} where it terminated or
    truncated it, and after the last step. Schulman et al. 2016 (arXiv 1506.02438), equation 16;
    Pardo et al. 2018 (arXiv 1712.00378), section 3, on time limits.

    Args:
        rewards: r, steps by environments.
        values: V(s) of what was seen before the step, in units of the reward.
        next_values: V(s') of what it led to, before any reset.
        terminated: whether the task ended the episode there.
        truncated: whether a time limit cut it there.
        discount: γ.
        trace: λ, the share of the estimate that longer returns have.
    """
    errors = rewards + discount * jnp.where(terminated, 0, next_values) - values
    goes_on = ~(terminated | truncated)

    def step(later: Float[Array, " e"], now: tuple[Array, Array]) -> tuple[Array, Array]:
        error, continues = now
        advantage = error + discount * trace * jnp.where(continues, later, 0)
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros_like(errors[0]), (errors, goes_on), reverse=True)
    return advantages
