"""Brax's own tasks, on any of its back ends.

They resemble Gymnasium's tasks of the same names but are not the same: returns do not compare
across rooms, nor across back ends. Actions are in [-1, 1]: a task with other actuator limits
rescales them itself.
"""

import difflib
import inspect
from typing import Any

import jax
import numpy as np
from brax import envs
from jaxtyping import Array, Float, Key

from nesht_jax.envs.rollout import Environment, Transition, strong
from nesht_jax.envs.task import TaskOptions, TaskSpec

BACKENDS = ("spring", "positional", "generalized", "mjx")

HORIZON = 1000
"""Steps of an episode: the default ``episode_length`` of ``brax.envs.create``."""

# fast is a stub for Brax's own tests; swimmer calls jnp.clip(a_min=...), which JAX has removed
_BROKEN = {"fast", "swimmer"}

ENDLESS = {"halfcheetah", "humanoidstandup", "pusher", "reacher"}
"""Tasks whose episodes end at the horizon only."""


def names() -> list[str]:
    """Registered Brax tasks that run with the installed JAX, your own registered ones included."""
    return sorted(set(envs._envs) - _BROKEN)


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task; nothing is compiled. Errors are those of ``make``."""
    return make(name, options).spec


def make(name: str, options: TaskOptions) -> Environment:
    """A task by name.

    Args:
        name: one of ``names()``.
        options: arguments of the task's Brax class. ``backend`` is ``"spring"`` unless told
            otherwise: on hopper 3 times faster than ``"positional"`` and 7 times faster than
            ``"mjx"`` and ``"generalized"``, which simulate more faithfully.

    Raises:
        ValueError: if an option or back end is unknown, and the message names the valid ones; or
            if the task does not observe one flat vector.
    """
    task = envs.get_environment(name, **_checked(name, options))

    def reset(key: Key[Array, ""]) -> tuple[envs.State, Float[Array, " o"]]:
        state = strong(task.reset(key))
        return state, state.obs

    def step(state: envs.State, action: Float[Array, " a"]) -> Transition:
        # Brax writes into the metrics of the state it is given: give it a copy
        after = strong(task.step(jax.tree.map(lambda x: x, state), action))
        return Transition(after, after.obs, after.reward, after.done > 0)

    observation = jax.eval_shape(task.reset, jax.random.key(0)).obs
    if getattr(observation, "ndim", None) != 1:
        shapes = jax.tree.map(lambda x: x.shape, observation)
        raise ValueError(f"brax/{name} must observe one flat vector, got {shapes}")
    one = np.ones(task.action_size, np.float32)
    terminates = name not in ENDLESS
    made = TaskSpec(observation.size, -one, one, HORIZON, terminates=terminates)
    return Environment(reset, step, made)


def _checked(name: str, options: TaskOptions) -> dict[str, Any]:
    """The options over their defaults."""
    chosen = {"backend": BACKENDS[0]} | options
    if chosen["backend"] not in BACKENDS:
        raise ValueError(
            f"backend must be one of {', '.join(BACKENDS)}, got {options['backend']!r}"
        )
    arguments = inspect.signature(envs._envs[name]).parameters
    shared = inspect.signature(envs.PipelineEnv).parameters
    valid = [key for key in {**arguments, **shared} if key not in ("sys", "kwargs")]
    for key in options:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(
                f"brax/{name} has no option {key!r}; the nearest are {', '.join(near)}"
            )
    return chosen
