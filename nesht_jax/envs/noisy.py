"""×N noise: the task-irrelevant features of every room."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

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
