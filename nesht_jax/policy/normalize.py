"""Three ways in which a policy may normalize what it sees."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nesht_jax.types import Moments


class Normalizer(NamedTuple):
    """How an observation becomes the input of a network.

    Attributes:
        apply: (moments, observation [o]) -> input [o].
        uses_moments: whether ``apply`` reads the moments, so that suites must gather them.
        min_features: smallest o of which ``apply`` leaves a policy more than a sign to see.
    """

    apply: Callable[[Moments | None, Float[Array, " o"]], Float[Array, " o"]]
    uses_moments: bool
    min_features: int = 1


def by_running_moments(clip: float = 5.0) -> Normalizer:
    """Whitens by the moments of all observations so far, and clips to ± ``clip``.

    clip((x - mean) / (std + 1e-2)); before any observation x alone is clipped. The epsilon is in
    units of the observation and tames features that hardly move. Salimans et al. 2017, section 4.1.

    Raises:
        ValueError: if ``clip`` is not above 0; in ``apply``, if moments are None.
    """
    if not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}; inf does not clip")

    def whiten(moments: Moments | None, observation: Float[Array, " o"]) -> Float[Array, " o"]:
        if moments is None:
            raise ValueError(
                "by_running_moments needs moments, got None; before any observation they are "
                "Moments.empty(o)"
            )
        return jnp.clip((observation - moments.mean) / running_scale(moments), -clip, clip)

    return Normalizer(whiten, uses_moments=True)


def running_scale(moments: Moments) -> Float[Array, " o"]:
    """Computes what ``by_running_moments`` divides by: std + 1e-2; 1 before any observation."""
    std = jnp.sqrt(moments.deviation / jnp.maximum(moments.number, 1))
    return jnp.where(moments.number > 0, std + 1e-2, 1.0)


def by_observation() -> Normalizer:
    """Standardizes across the features of the one observation: (x - mean x) / (std x + 1e-5).

    As the published MuJoCo code; the distractors take part in mean and std. One feature always
    becomes 0, and two ±(1, -1): less than three are refused by ``make_policy``.
    """

    def standardize(moments: Moments | None, observation: Float[Array, " o"]) -> Float[Array, " o"]:
        del moments
        return (observation - observation.mean()) / (observation.std() + 1e-5)

    return Normalizer(standardize, uses_moments=False, min_features=3)


def unnormalized() -> Normalizer:
    """Leaves the observation as it comes."""
    return Normalizer(lambda moments, observation: observation, uses_moments=False)
