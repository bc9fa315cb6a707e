"""MuJoCo Playground's tasks, simulated by MJX: the DeepMind Control Suite, and robots.

Robots need MuJoCo Menagerie. Playground would clone it while a task is made; here nothing is
downloaded: those tasks are listed once its folder is there. Actions are in [-1, 1].
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco_playground import dm_control_suite, registry
from mujoco_playground._src import mjx_env

from nesht_jax.envs.playground_sensors import names_of
from nesht_jax.envs.silence import silence_mujoco
from nesht_jax.envs.simulator import (
    as_environment,
    refusals,
    refuse_unknown,
    under_jax_defaults,
    vector_size,
)
from nesht_jax.envs.suite import Suite, TaskOptions, Transition
from nesht_jax.types import Task

# the wrappers of Playground's trainers would repeat actions, and nothing else reads it
_OWNED = ("action_repeat",)


def names() -> list[str]:
    """Lists the tasks whose files are on this machine."""
    offline = not mjx_env.MENAGERIE_PATH.exists()
    return sorted(dm_control_suite.ALL_ENVS if offline else registry.ALL_ENVS)


@under_jax_defaults
def make(name: str, options: TaskOptions) -> Task:
    """Makes a task; nothing is compiled. Of an observation in parts, the policy sees ``state``.

    Args:
        name: one of ``names()``.
        options: overrides of the task's config, nested ones as maps or as keys with dots, as in
            ``reward_config.scales.energy``. ``impl`` is ``"jax"`` unless told otherwise:
            Playground's own default, ``"warp"``, is for NVIDIA; ``episode_length`` is the horizon.

    Raises:
        ValueError: if an option is unknown, and the message names the nearest; or does not fit;
            or if the task does not observe a vector.
    """
    full_name = f"playground/{name}"
    config: Any = registry.get_default_config(name)
    overrides = _overrides(full_name, config, options)
    with refusals(full_name, options), silence_mujoco():
        task = registry.load(name, config, overrides)
        begin = jax.jit(task.reset)  # traced here, and not again where it is called
        observation = _seen(jax.eval_shape(begin, jax.random.key(0)).obs)

    def reset(key: Key[Array, ""]) -> tuple[mjx_env.State, Float[Array, " o"]]:
        state = begin(key)
        return state, _seen(state.obs)

    def step(state: mjx_env.State, action: Float[Array, " a"]) -> Transition:
        # Playground writes into the dicts of the state it is given: give it a copy
        after = task.step(jax.tree.map(lambda x: x, state), action)
        return Transition(after, _seen(after.obs), after.reward, after.done > 0)

    size = vector_size(full_name, observation)
    known = names_of(task, num_features=size)
    one = np.ones(task.action_size, np.float32)
    return Task(
        name=full_name,
        options=options,
        observation_size=size,
        action_low=-one,
        action_high=one,
        discrete=False,
        horizon=config.episode_length,
        terminates=name not in dm_control_suite.ALL_ENVS,  # those end at their limit only
        feature_names=known.features,
        action_names=known.actions,
        simulator=as_environment(reset, step),
    )


def _seen(observation: Any) -> Any:
    return observation["state"] if isinstance(observation, Mapping) else observation


def _overrides(full_name: str, config: Any, options: TaskOptions) -> dict[str, Any]:
    """The options over their defaults, nested ones with dots."""
    given = dict(_leaves(options, dict))
    valid = [key for key, _ in _leaves(config, type(config)) if key not in _OWNED]
    refuse_unknown(full_name, given, valid)
    return ({"impl": "jax"} if "impl" in valid else {}) | given


def _leaves(config: Any, mapping: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Names, nested ones with dots, and values of the settings."""
    leaves = []
    for key, value in config.items():
        if isinstance(value, mapping):
            leaves += _leaves(value, mapping, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


SUITE = Suite(names=names, make=make)
