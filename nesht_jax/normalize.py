"""Observation moments, and the three ways in which a policy may normalise what it sees."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of the observations seen, feature by feature."""

    number: Float[Array, "*batch"]
    mean: Float[Array, "*batch o"]
    deviation: Float[Array, "*batch o"]


def empty(size: int) -> Moments:
    """No observation yet."""
    return Moments(jnp.zeros(()), jnp.zeros(size), jnp.zeros(size))


def of_batch(observations: Float[Array, "b o"], counted: Bool[Array, " b"]) -> Moments:
    """Moments of the rows that are counted."""
    number = counted.astype(observations.dtype)
    return merge_all(Moments(number, observations, jnp.zeros_like(observations)))


def add(moments: Moments, observation: Float[Array, " o"]) -> Moments:
    """Moments with one more observation. Welford 1962."""
    return merge(moments, Moments(jnp.ones(()), observation, jnp.zeros_like(observation)))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two disjoint sets. Chan et al. 1979, equations 2.1."""
    number = a.number + b.number
    share = b.number / jnp.maximum(number, 1)
    shift = b.mean - a.mean
    return Moments(
        number, a.mean + share * shift, a.deviation + b.deviation + shift**2 * a.number * share
    )


def merge_all(parts: Moments) -> Moments:
    """Moments of the union of many disjoint sets, stacked along the leading axis."""
    number = parts.number.sum()
    weight = parts.number[:, None] / jnp.maximum(number, 1)
    mean = (weight * parts.mean).sum(0)
    between = (parts.number[:, None] * (parts.mean - mean[None]) ** 2).sum(0)
    return Moments(number, mean, parts.deviation.sum(0) + between)


class Normalizer(NamedTuple):
    """How an observation becomes the input of a network.

    Attributes:
        apply: (moments, observation) -> input, of the same shape.
        running: whether ``apply`` reads the moments, so that rooms must gather them.
    """

    apply: Callable[[Moments | None, Float[Array, " o"]], Float[Array, " o"]]
    running: bool


def running(clip: float = 5.0) -> Normalizer:
    """Whitens by the moments of all observations so far, and clips to ± ``clip``.

    clip((x - mean) / (std + 1e-2)); before any observation x alone is clipped. The epsilon is in
    units of the observation and tames features that hardly move. Salimans et al. 2017, section 4.1.
    """

    def whiten(moments: Moments | None, observation: Float[Array, " o"]) -> Float[Array, " o"]:
        if moments is None:
            raise ValueError("running normalisation needs moments: init the state with empty(o)")
        std = jnp.sqrt(moments.deviation / jnp.maximum(moments.number, 1))
        scale = jnp.where(moments.number > 0, std + 1e-2, 1.0)
        return jnp.clip((observation - moments.mean) / scale, -clip, clip)

    return Normalizer(whiten, running=True)


def per_observation() -> Normalizer:
    """Standardises across the features of the one observation: (x - mean x) / (std x + 1e-5).

    The published MuJoCo code; the task-irrelevant features take part in mean and std.
    """

    def standardize(moments: Moments | None, observation: Float[Array, " o"]) -> Float[Array, " o"]:
        del moments
        return (observation - observation.mean()) / (observation.std() + 1e-5)

    return Normalizer(standardize, running=False)


def none() -> Normalizer:
    """The observation as it comes."""
    return Normalizer(lambda moments, observation: observation, running=False)
