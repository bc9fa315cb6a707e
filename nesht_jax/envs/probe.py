"""Tiny tasks with known answers: each has one way to win."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nesht_jax.envs.rollout import Environment, Transition
from nesht_jax.envs.task import TaskOptions, TaskSpec

LINEAR_WEIGHTS = (1.0, -0.8, 0.6, 1.2, -1.0)
"""The answer of ``probe/linear``: the weights of its inputs; noise features have weight 0."""

COUNTDOWN_LONGEST = 20


def names() -> list[str]:
    """Tasks of this room."""
    return sorted(_PROBES)


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a probe; probes have no options."""
    return make(name, options).spec


def make(name: str, options: TaskOptions) -> Environment:
    """A probe by name.

    Raises:
        ValueError: if any option is given.
    """
    if options:
        raise ValueError(f"probe/{name} has no options, got {', '.join(options)}")
    return _PROBES[name]()


def linear() -> Environment:
    """Linear regression as a task: which inputs matter, and by how much?

    Every step shows x ~ N(0, I) and pays -(a - w·x)², w = ``LINEAR_WEIGHTS``. The one optimum is
    the linear policy with these weights and nothing on bias and noise; its return is 0. Horizon 10.
    """
    weights = jnp.array(LINEAR_WEIGHTS)

    def draw(key: Key[Array, ""]) -> tuple[Key[Array, ""], Float[Array, " o"]]:
        key, now = jax.random.split(key)
        return key, jax.random.normal(now, weights.shape)

    def reset(key: Key[Array, ""]):
        key, x = draw(key)
        return (key, x), x

    def step(state, action: Float[Array, " 1"]) -> Transition:
        key, x = state
        reward = -((action[0] - weights @ x) ** 2)
        key, after = draw(key)
        return Transition((key, after), after, reward, jnp.asarray(False))

    unbounded = np.full(1, np.inf, np.float32)
    return Environment(reset, step, TaskSpec(len(LINEAR_WEIGHTS), -unbounded, unbounded, 10))


def countdown() -> Environment:
    """Lives for a number of steps drawn at reset, 1 to 20, and pays 1 - a² at each.

    Shows (steps left)/20 and the constant 1. The one optimum is a = 0: the return is then the
    length of the episode, so whoever pays or counts a dead step is caught. Horizon 20.
    """

    def observe(left: Int[Array, ""]) -> Float[Array, " 2"]:
        return jnp.stack([left / COUNTDOWN_LONGEST, jnp.float32(1)])

    def reset(key: Key[Array, ""]):
        left = jax.random.randint(key, (), 1, COUNTDOWN_LONGEST + 1)
        return left, observe(left)

    def step(left: Int[Array, ""], action: Float[Array, " 1"]) -> Transition:
        return Transition(left - 1, observe(left - 1), 1 - action[0] ** 2, left - 1 <= 0)

    one = np.ones(1, np.float32)
    return Environment(reset, step, TaskSpec(2, -one, one, COUNTDOWN_LONGEST))


_PROBES = {"linear": linear, "countdown": countdown}
