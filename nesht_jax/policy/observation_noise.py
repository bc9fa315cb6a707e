"""A policy that does not see well: noise on what it observes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

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
        noise = jax.random.normal(jax.random.fold_in(key, _mixed(seen)), seen.shape, jnp.float32)
        return policy.apply(params, moments, seen + deviation * unit * noise)

    return policy._replace(apply=apply)


def _mixed(numbers: Float[Array, " o"]) -> UInt32[Array, ""]:
    """Makes one word of the bits of all numbers: the sum of each word and its place, mixed.

    The finalizer of MurmurHash3 is one to one and not linear, so that signs do not cancel.
    """
    places = jnp.arange(numbers.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
    words = jax.lax.bitcast_convert_type(numbers, jnp.uint32) + places
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = (words ^ (words >> jnp.uint32(shift))) * jnp.uint32(factor)
    return jnp.sum(words ^ (words >> jnp.uint32(16)), dtype=jnp.uint32)
