"""A policy that does not see well: noise on what it observes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nesht_jax.types import Moments, Params, Policy


def with_observation_noise(
    policy: Policy,
    deviation: float | Float[Array, ""],
    unit: Float[Array, " o"],
    key: Key[Array, ""],
) -> Policy:
    """Makes the policy that sees x + δ u N(0, 1), feature by feature.

    The noise is a function of the key and the bits of the whole observation, so that it needs
    nothing of the suite; it changes wherever the observation does, and where that stands still, it
    stands still too.

    Args:
        policy: policy to whom the noise is shown, before it normalizes anything.
        deviation: δ, in units of u.
        unit: u of each feature, as its standard deviation.
        key: key of the noise.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), section 4.5, of such noise after training.
    """

    def apply(
        params: Params, moments: Moments | None, observation: Float[Array, " o"]
    ) -> Float[Array, " a"]:
        seen = jnp.asarray(observation, jnp.float32)
        bits = jax.lax.bitcast_convert_type(seen, jnp.uint32)
        # odd factors, so that no bit is lost, and features that change places count as a change
        factors = 2 * jnp.arange(seen.size, dtype=jnp.uint32) + jnp.uint32(0x9E3779B1)
        mixed = jnp.sum(bits * factors, dtype=jnp.uint32)
        noise = jax.random.normal(jax.random.fold_in(key, mixed), seen.shape, jnp.float32)
        return policy.apply(params, moments, seen + deviation * unit * noise)

    return policy._replace(apply=apply)
