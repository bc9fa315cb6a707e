"""The tasks of gymnax: classic control, bsuite, MinAtar and others, in JAX.

``reset_env`` and ``step_env`` are used, which never reset by themselves. An episode ends where the
task says so or the horizon cuts it; gymnax's own clock, which old versions take for an ending, is
stopped, so that the horizon may be longer than the task's own.
"""

import dataclasses
import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jaxtyping import Array, Float, Key

from nesht_jax.envs.rollout import Environment, Transition, strong
from nesht_jax.envs.task import TaskOptions, TaskSpec

NEVER = 2**30
"""Steps that no episode reaches."""

# the first downloads its digits when it is made; the second, in gymnax 0.0.9, indexes a number
_BROKEN = {"MNISTBandit-bsuite", "SimpleBandit-bsuite"}

# they show how much of their time has passed, and so keep their own clock
_TIMED = {"DiscountingChain-bsuite"}


def names() -> list[str]:
    """Registered gymnax tasks that run with the installed JAX and without a network."""
    return sorted(set(gymnax.registered_envs) - _BROKEN)


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task; nothing is compiled. Errors are those of ``make``."""
    return make(name, options).spec


def make(name: str, options: TaskOptions) -> Environment:
    """A task by name.

    Args:
        name: one of ``names()``.
        options: fields of the task's ``EnvParams``; ``max_steps_in_episode`` is its horizon.

    Raises:
        ValueError: if an option is unknown, and the message names the nearest; or if the task
            takes other than one number per action, or one of several actions.
    """
    task, params = gymnax.make(name)
    params = _with(name, params, options)
    limit = params.max_steps_in_episode
    endless = params.replace(max_steps_in_episode=type(limit)(NEVER))
    running = params if name in _TIMED else endless
    low, high = _bounds(name, task.action_space(params))
    chooses = isinstance(task.action_space(params), spaces.Discrete)
    shape = task.action_space(params).shape

    def reset(key: Key[Array, ""]) -> tuple[Any, Float[Array, " o"]]:
        key, reset_key = jax.random.split(key)
        with _unwarned():
            observation, state = task.reset_env(reset_key, running)
        return strong((key, state)), _flat(observation)

    def step(state: Any, action: Float[Array, " a"]) -> Transition:
        key, step_key = jax.random.split(state[0])
        played = jnp.argmax(action) if chooses else action.reshape(shape)
        with _unwarned():
            observation, after, reward, done, _ = task.step_env(step_key, state[1], played, running)
        reward = jnp.asarray(reward, jnp.float32)
        return Transition(strong((key, after)), _flat(observation), reward, jnp.asarray(done, bool))

    _, observation = jax.eval_shape(reset, jax.random.key(0))
    return Environment(reset, step, TaskSpec(observation.size, low, high, int(limit)))


def _flat(observation: Any) -> Float[Array, " o"]:
    """All parts of an observation in one vector."""
    parts = [jnp.ravel(part).astype(jnp.float32) for part in jax.tree.leaves(observation)]
    return jnp.concatenate(parts)


def _bounds(name: str, space: Any) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Of actions; of the scores of ``Discrete`` ones there are none."""
    if isinstance(space, spaces.Discrete):
        unbounded = np.full(int(space.n), np.inf, np.float32)
        return -unbounded, unbounded
    if not isinstance(space, spaces.Box):
        raise ValueError(f"gymnax/{name} must act in a Box or a Discrete space, got {space}")
    low, high = (np.broadcast_to(bound, space.shape).ravel() for bound in (space.low, space.high))
    return low.astype(np.float32), high.astype(np.float32)


def _with(name: str, params: Any, options: TaskOptions) -> Any:
    """The task's parameters with the options in them."""
    valid = [field.name for field in dataclasses.fields(params)]
    for key in options:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(
                f"gymnax/{name} has no option {key!r}; the nearest are {', '.join(near)}"
            )
    return params.replace(**options)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without JAX's words on gymnax's types: it asks for int64, and for integers as booleans."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield
