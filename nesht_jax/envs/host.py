"""What the rooms share whose simulators are stepped on the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nesht_jax import normalize
from nesht_jax.contract import Params
from nesht_jax.envs.task import TaskSpec
from nesht_jax.policy import Policy


def batched_act(
    policy: Policy, task: TaskSpec, action_noise: float
) -> Callable[..., tuple[Array, normalize.Moments | None]]:
    """Jitted: the actions of a batch of slots, and the moments with what they saw.

    Its arguments are ``params`` of ``contract.Members``, the moments that policies read, what each
    slot has of its own, what it sees, N(0, 1) for its action, the moments so far, and who counts.
    """

    @jax.jit
    def batched(
        params: Callable[[Any], Params],
        moments: normalize.Moments | None,
        own: Any,
        seen: Float[Array, "slot o"],
        jitter: Float[Array, "slot _"],
        observed: normalize.Moments | None,
        counted: Bool[Array, " slot"],
    ) -> tuple[Float[Array, "slot a"], normalize.Moments | None]:
        action = jax.vmap(lambda own, x: policy.apply(params(own), moments, x))(own, seen)
        if action_noise:
            low, high = task.action_low[None], task.action_high[None]
            action = jnp.clip(action + action_noise * jitter, low, high)
        if observed is not None:
            observed = normalize.merge(observed, normalize.of_batch(seen, counted))
        return action, observed

    return batched
