"""The policy of SAC: a normal distribution, squashed into the bounds of actions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nesht_jax.types import Task


class Squashed(NamedTuple):
    """The distribution of middle + reach · tanh(u), u ~ N(μ, σ²), component by component.

    μ and log σ are what a network gives for one observation, side by side.

    Attributes:
        low: lower bounds of actions.
        high: upper bounds of actions.
    """

    low: Float[Any, " a"]
    high: Float[Any, " a"]

    @classmethod
    def of_task(cls, task: Task) -> "Squashed":
        """Squashes into the bounds of a task.

        Raises:
            ValueError: if its actions are choices, or bounds are not finite or leave no choice.
        """
        if task.discrete:
            raise ValueError(
                f"SAC needs actions between bounds, and {task.name} has choices; use DQN or PPO"
            )
        low, high = (np.asarray(bound, np.float32) for bound in (task.action_low, task.action_high))
        # float32's largest numbers as bounds mean that there is none
        with np.errstate(over="ignore"):
            span = high - low
        if not (np.isfinite(span) & (span > 0)).all():
            raise ValueError(
                f"SAC needs finite bounds of actions, one below the other, and {task.name} has "
                f"{low.tolist()} ... {high.tolist()}; use PPO"
            )
        return cls(low, high)

    def mode(self, outputs: Float[Array, " twice_a"]) -> Float[Array, " a"]:
        """Gives the squashed mean, within the bounds."""
        mean, _ = jnp.split(outputs, 2)
        return jnp.clip(self._squash(mean), self.low, self.high)

    def sample(
        self, outputs: Float[Array, " twice_a"], normals: Float[Array, " a"]
    ) -> tuple[Float[Array, " a"], Float[Array, ""]]:
        """Makes an action of N(0, 1) numbers, and the logarithm of its density.

        log π = Σ_i log N(u_i; μ_i, σ_i²) - log reach_i - log(1 - tanh² u_i). Haarnoja et al. 2018
        (arXiv 1801.01290), appendix C; the reach makes it a density in units of the action.
        """
        mean, log_std = jnp.split(outputs, 2)
        u = mean + jnp.exp(log_std) * normals
        log_normal = -(normals**2) / 2 - log_std - np.float32(np.log(2 * np.pi) / 2)
        # log(1 - tanh² u), whose plain form is log 0 from u = 9 on
        log_slope = 2 * (np.float32(np.log(2)) - u - jax.nn.softplus(-2 * u))
        return self._squash(u), jnp.sum(log_normal - np.log(self._reach) - log_slope)

    def uniform(self, key: Key[Array, ""]) -> Float[Array, " a"]:
        """Draws an action uniformly between the bounds."""
        share = jax.random.uniform(key, self.low.shape, jnp.float32)
        return self.low + share * (self.high - self.low)

    @property
    def _reach(self) -> Float[Any, " a"]:
        return (self.high - self.low) / 2

    def _squash(self, u: Float[Array, " a"]) -> Float[Array, " a"]:
        return (self.low + self.high) / 2 + self._reach * jnp.tanh(u)
