"""Tiny tasks with known answers: each has one way to win."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nesht_jax.envs.simulator import as_environment, refuse_unknown
from nesht_jax.envs.suite import Environment, Suite, TaskOptions, Transition
from nesht_jax.types import Task

LINEAR_WEIGHTS = (1.0, -0.8, 0.6, 1.2, -1.0)
"""The answer of ``probe/linear``: the weights of its inputs; distractors have weight 0."""

COUNTDOWN_LONGEST = 20
"""Most steps of an episode of ``probe/countdown``."""


def names() -> list[str]:
    """Lists the probes."""
    return sorted(_PROBES)


def make(name: str, options: TaskOptions) -> Task:
    """Makes a probe.

    Raises:
        ValueError: if any option is given.
    """
    refuse_unknown(f"probe/{name}", options, ())
    return _PROBES[name]()


def linear() -> Task:
    """Linear regression as a task: which inputs matter, and by how much?

    Every step shows x ~ N(0, I) and pays -(a - w·x)², w = ``LINEAR_WEIGHTS``. The one optimum is
    the linear policy with these weights and nothing on bias and distractors; its return is 0.
    Horizon 10.
    """
    weights = np.array(LINEAR_WEIGHTS, np.float32)

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

    features = tuple(f"x{i}" for i in range(len(LINEAR_WEIGHTS)))
    environment = as_environment(reset, step)
    return _task("probe/linear", features, math.inf, 10, environment, terminates=False)


def countdown() -> Task:
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

    environment = as_environment(reset, step)
    features = ("left", "one")
    return _task("probe/countdown", features, 1.0, COUNTDOWN_LONGEST, environment, terminates=True)


def _task(
    name: str,
    features: tuple[str, ...],
    bound: float,
    horizon: int,
    environment: Environment,
    *,
    terminates: bool,
) -> Task:
    high = np.full(1, bound, np.float32)
    return Task(
        name=name,
        options={},
        observation_size=len(features),
        action_low=-high,
        action_high=high,
        discrete=False,
        horizon=horizon,
        terminates=terminates,
        feature_names=features,
        simulator=environment,
    )


_PROBES = {"linear": linear, "countdown": countdown}

SUITE = Suite(names=names, make=make)
