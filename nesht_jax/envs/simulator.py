"""What suites share in making tasks: refusals, and simulators written in JAX as environments."""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nesht_jax.envs import catalog
from nesht_jax.envs.suite import Environment, TaskOptions, Transition

P = ParamSpec("P")
R = TypeVar("R")

_TIME_LIMITS = ("max_episode_steps", "time_limit", "episode_length", "max_steps_in_episode")


@contextmanager
def jax_defaults() -> Iterator[None]:
    """Sets the JAX that simulators are written for, whatever the program around them has set: their
    own code leaves dtypes to the default, broadcasts ranks and mixes types."""
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def under_jax_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function of a simulator's own code do the same under any setting of JAX."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax_defaults():
            return function(*args, **kwargs)

    return wrapped


def as_environment(
    reset: Callable[[Key[Array, ""]], tuple[Any, Any]],
    step: Callable[[Any, Float[Array, " a"]], Transition],
) -> Environment:
    """Makes an environment of a simulator's own reset and step, whatever JAX is set to.

    Observations and rewards become float32, and weak types, in which a simulator's reset and step
    may differ, are stripped: a loop around them would compile twice.
    """

    def typed(state: Any, observation: Any) -> tuple[Any, Float[Array, " o"]]:
        return strip_weak_types(state), jnp.asarray(observation, jnp.float32)

    @under_jax_defaults
    def strict_reset(key: Key[Array, ""]) -> tuple[Any, Float[Array, " o"]]:
        return typed(*reset(key))

    @under_jax_defaults
    def strict_step(state: Any, action: Float[Array, " a"]) -> Transition:
        after = step(state, jnp.asarray(action, jnp.float32))
        reward = jnp.asarray(after.reward, jnp.float32)
        terminated = jnp.asarray(after.terminated, bool)
        return Transition(*typed(after.state, after.observation), reward, terminated)

    return Environment(strict_reset, strict_step)


def strip_weak_types(tree: Any) -> Any:
    """The same numbers, each leaf of the dtype that it has, weakly typed no longer."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def vector_size(task: str, observation: Any) -> int:
    """Features of a traced observation.

    Raises:
        ValueError: if it is not one flat vector.
    """
    if getattr(observation, "ndim", None) != 1:
        shapes = jax.tree.map(lambda x: x.shape, observation)
        raise ValueError(f"{task} must observe one flat vector, got {shapes}")
    return observation.size


def refuse_unknown(task: str, options: TaskOptions, valid: Collection[str]) -> None:
    """Refuses options that a task has not, and names the nearest.

    Raises:
        ValueError: at the first unknown option.
    """
    for key in options:
        if key in valid:
            continue
        if key in _TIME_LIMITS:
            raise ValueError(
                f"{task} has no option {key!r}: set horizon, the steps after which an episode is "
                "cut"
            )
        if not valid:
            raise ValueError(f"{task} has no options, got {key!r}")
        raise ValueError(f"{task} has no option {key!r}; {catalog.nearest(str(key), valid)}")


@contextmanager
def refusals(task: str, options: TaskOptions) -> Iterator[None]:
    """Turns whatever a simulator raises while a task is made into one sentence that names it.

    Raises:
        ValueError: names the task, its options and what the simulator said.
    """
    try:
        yield
    except Exception as error:  # a simulator may refuse its arguments by any kind of error
        given = f" with {options}" if options else ""
        said = f"{type(error).__name__}: {' '.join(str(error).split())}".strip(": ")
        raise ValueError(f"{task} cannot be made{given}: {said}") from error
