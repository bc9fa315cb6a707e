"""The tasks of gymnax: classic control, bsuite, MinAtar and others, in JAX.

``reset_env`` and ``step_env`` are used, which never reset by themselves. An episode ends where the
task says so or the horizon cuts it; gymnax's own clock, which old versions take for an ending, is
stopped, so that the horizon may be longer than the task's own.
"""

import dataclasses
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

from nesht_jax.envs.simulator import as_environment, refuse_unknown, under_jax_defaults
from nesht_jax.envs.suite import Environment, Suite, TaskOptions, Transition
from nesht_jax.types import Task

NEVER = 2**30
"""Steps that no episode reaches."""

# the first downloads its digits when it is made; the second, in gymnax 0.0.9, indexes a number
_BROKEN = {"MNISTBandit-bsuite", "SimpleBandit-bsuite"}

# they show how much of their time has passed, and so keep their own clock
_TIMED = {"DiscountingChain-bsuite"}


def names() -> list[str]:
    """Lists the registered gymnax tasks that run with the installed JAX and without a network."""
    return sorted(set(gymnax.registered_envs) - _BROKEN)


@under_jax_defaults
def make(name: str, options: TaskOptions) -> Task:
    """Makes a task; nothing is compiled. Images, as of MinAtar, are shown channels first.

    Args:
        name: one of ``names()``.
        options: fields of the task's ``EnvParams``; ``max_steps_in_episode`` is its horizon.

    Raises:
        ValueError: if an option is unknown, and the message names the nearest; if its value is not
            of the field's type; or if the task takes other than one vector of numbers per action,
            or one of several actions.
    """
    full_name = f"gymnax/{name}"
    task, params = gymnax.make(name)
    params = _with_options(full_name, params, options)
    space = task.action_space(params)
    low, high = _bounds(full_name, space)
    limit = params.max_steps_in_episode
    endless = params.replace(max_steps_in_episode=type(limit)(NEVER))
    running = params if name in _TIMED else endless
    with _unwarned():
        shown, _ = jax.eval_shape(task.reset_env, jax.random.key(0), running)
    return Task(
        name=full_name,
        options=options,
        observation_size=sum(part.size for part in jax.tree.leaves(shown)),
        action_low=low,
        action_high=high,
        discrete=isinstance(space, spaces.Discrete),
        horizon=int(limit),
        image_shape=_image_shape(shown),
        simulator=_environment(task, running, space),
    )


def _environment(task: Any, params: Any, space: Any) -> Environment:
    discrete = isinstance(space, spaces.Discrete)

    def reset(key: Key[Array, ""]) -> tuple[Any, Float[Array, " o"]]:
        key, reset_key = jax.random.split(key)
        with _unwarned():
            observation, state = task.reset_env(reset_key, params)
        return (key, state), _flat(observation)

    def step(state: Any, action: Float[Array, " a"]) -> Transition:
        key, step_key = jax.random.split(state[0])
        played = jnp.argmax(action) if discrete else action.reshape(space.shape)
        with _unwarned():
            observation, after, reward, done, _ = task.step_env(step_key, state[1], played, params)
        return Transition((key, after), _flat(observation), reward, done)

    return as_environment(reset, step)


def _is_image(shown: Any) -> bool:
    return getattr(shown, "ndim", None) == 3


def _image_shape(shown: Any) -> tuple[int, int, int] | None:
    """Channels, height and width of an observation that is one image, channels last."""
    if not _is_image(shown):
        return None
    height, width, channels = shown.shape
    return channels, height, width


def _flat(observation: Any) -> Float[Array, " o"]:
    """Joins all parts of an observation to one vector, an image channels first."""
    if _is_image(observation):
        observation = jnp.moveaxis(observation, -1, 0)
    parts = [jnp.ravel(part).astype(jnp.float32) for part in jax.tree.leaves(observation)]
    return jnp.concatenate(parts)


def _bounds(full_name: str, space: Any) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Gives the bounds of actions; the scores of ``Discrete`` ones have none."""
    if isinstance(space, spaces.Discrete):
        unbounded = np.full(int(space.n), np.inf, np.float32)
        return -unbounded, unbounded
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{full_name} must act in a Box or a Discrete space, got {space}")
    low, high = (np.broadcast_to(bound, space.shape).ravel() for bound in (space.low, space.high))
    return low.astype(np.float32), high.astype(np.float32)


def _with_options(full_name: str, params: Any, options: TaskOptions) -> Any:
    """The task's parameters with the options in them."""
    refuse_unknown(full_name, options, [field.name for field in dataclasses.fields(params)])
    return params.replace(
        **{
            key: _as_field(f"{full_name}: {key}", value, getattr(params, key))
            for key, value in options.items()
        }
    )


def _as_field(which: str, value: Any, default: Any) -> Any:
    """The value in the type and shape of a field's default; ``which`` names the field."""
    like = np.asarray(default)
    try:
        # an exponent without a point, as 1e-3, is text to YAML
        given = np.asarray(float(value) if isinstance(value, str) else value)
        same_kind = (given.dtype.kind == "b") == (like.dtype.kind == "b")
        whole = like.dtype.kind != "i" or (np.mod(given, 1) == 0).all()
        fits = given.dtype.kind in "biuf" and same_kind and whole and given.shape == like.shape
        cast = given.astype(like.dtype) if fits else None
    except (TypeError, ValueError):  # text, a map, a list of lists of several lengths
        cast = None
    if cast is None:
        raise ValueError(f"{which} must be like its default {like.tolist()!r}, got {value!r}")
    return jnp.asarray(cast) if isinstance(default, jax.Array) else type(default)(cast)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silences JAX on gymnax's types: it asks for int64, and for integers as booleans."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield


SUITE = Suite(names=names, make=make)
