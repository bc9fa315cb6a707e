"""Brax's own tasks, on any of its back ends.

They resemble Gymnasium's tasks of the same names but are not the same: returns do not compare
across suites, nor across back ends. Actions are in [-1, 1]: a task with other actuator limits
rescales them itself.
"""

import inspect
from typing import Any

import jax
import numpy as np
from brax import envs
from jaxtyping import Array, Float, Key

from nesht_jax.envs.simulator import (
    as_environment,
    refusals,
    refuse_unknown,
    under_jax_defaults,
    vector_size,
)
from nesht_jax.envs.suite import Suite, TaskOptions, Transition, alive_bonus
from nesht_jax.types import Task

BACKENDS = ("spring", "positional", "generalized", "mjx")

HORIZON = 1000
"""Steps of an episode: the default ``episode_length`` of ``brax.envs.create``."""

# fast is a stub for Brax's own tests; swimmer calls jnp.clip(a_min=...), which JAX has removed
_BROKEN = {"fast", "swimmer"}

ENDLESS = {"halfcheetah", "humanoidstandup", "pusher", "reacher"}
"""Tasks whose episodes end at the horizon only."""


def names() -> list[str]:
    """Lists the registered Brax tasks that run with the installed JAX, also those you registered
    yourself."""
    return sorted(set(envs._envs) - _BROKEN)


@under_jax_defaults
def make(name: str, options: TaskOptions) -> Task:
    """Makes a task; nothing is compiled.

    Args:
        name: one of ``names()``.
        options: arguments of the task's Brax class. ``backend`` is ``"spring"`` unless told
            otherwise: on hopper 3 times faster than ``"positional"`` and 7 times faster than
            ``"mjx"`` and ``"generalized"``, which simulate more faithfully.

    Raises:
        ValueError: if an option or back end is unknown, and the message names the valid ones; if
            Brax refuses an option's value; or if the task does not observe one flat vector.
    """
    full_name = f"brax/{name}"
    _check(full_name, options)
    with refusals(full_name, options):
        task = envs.get_environment(name, **({"backend": BACKENDS[0]} | options))
        begin = jax.jit(task.reset)  # traced here, and not again where it is called
        observation = jax.eval_shape(begin, jax.random.key(0)).obs

    def reset(key: Key[Array, ""]) -> tuple[envs.State, Any]:
        state = begin(key)
        return state, state.obs

    def step(state: envs.State, action: Float[Array, " a"]) -> Transition:
        # Brax writes into the metrics of the state it is given: give it a copy
        after = task.step(jax.tree.map(lambda x: x, state), action)
        return Transition(after, after.obs, after.reward, after.done > 0)

    bonus = alive_bonus(name, getattr(task, "_healthy_reward", None))
    one = np.ones(task.action_size, np.float32)
    return Task(
        name=full_name,
        options=options,
        observation_size=vector_size(full_name, observation),
        action_low=-one,
        action_high=one,
        discrete=False,
        horizon=HORIZON,
        terminates=name not in ENDLESS,
        alive_bonus=bonus,
        terminal_bonus=bonus,  # paid for every step, as in Gymnasium's version 4
        simulator=as_environment(reset, step),
    )


def _check(full_name: str, options: TaskOptions) -> None:
    arguments = inspect.signature(envs._envs[full_name.removeprefix("brax/")]).parameters
    shared = inspect.signature(envs.PipelineEnv).parameters
    refuse_unknown(
        full_name,
        options,
        [key for key in {**arguments, **shared} if key not in ("sys", "kwargs")],
    )
    backend = options.get("backend", BACKENDS[0])
    if backend not in BACKENDS:
        raise ValueError(
            f"{full_name}: backend must be one of {', '.join(BACKENDS)}, got {backend!r}"
        )


SUITE = Suite(names=names, make=make)
