"""MuJoCo Playground's tasks, simulated by MJX: the DeepMind Control Suite, and robots.

Robots need MuJoCo Menagerie. Playground would clone it while a task is made; here nothing is
downloaded: those tasks are listed once its folder is there. Actions are in [-1, 1].
"""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco_playground import dm_control_suite, registry
from mujoco_playground._src import mjx_env

from nesht_jax.envs.quiet import quiet
from nesht_jax.envs.rollout import Environment, Transition, strong
from nesht_jax.envs.task import TaskOptions, TaskSpec

# the wrappers of Playground's trainers would repeat actions, and nothing else reads it
_OWNED = ("action_repeat",)


def names() -> list[str]:
    """Tasks whose files are on this machine."""
    offline = not mjx_env.MENAGERIE_PATH.exists()
    return sorted(dm_control_suite.ALL_ENVS if offline else registry.ALL_ENVS)


def spec(name: str, options: TaskOptions) -> TaskSpec:
    """Sizes and bounds of a task; nothing is compiled. Errors are those of ``make``."""
    return make(name, options).spec


def make(name: str, options: TaskOptions) -> Environment:
    """A task by name. Of an observation in parts, the policy sees the part ``state``.

    Args:
        name: one of ``names()``.
        options: overrides of the task's config, nested keys with dots, as in
            ``reward_config.scales.energy``. ``impl`` is ``"jax"`` unless told otherwise:
            Playground's own default, ``"warp"``, is for NVIDIA; ``episode_length`` is the horizon.

    Raises:
        ValueError: if an option is unknown, and the message names the nearest; or does not fit;
            or if the task does not observe a vector.
    """
    config: Any = registry.get_default_config(name)
    overrides = _checked(name, config, options)
    try:
        with quiet():
            task = registry.load(name, config, overrides)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"playground/{name} cannot be made with {options}: {error}") from error

    def reset(key: Key[Array, ""]) -> tuple[mjx_env.State, Float[Array, " o"]]:
        state = strong(task.reset(key))
        return state, _seen(state.obs)

    def step(state: mjx_env.State, action: Float[Array, " a"]) -> Transition:
        # Playground writes into the dicts of the state it is given: give it a copy
        after = strong(task.step(jax.tree.map(lambda x: x, state), action))
        return Transition(after, _seen(after.obs), after.reward, after.done > 0)

    observation = _seen(jax.eval_shape(task.reset, jax.random.key(0)).obs)
    if getattr(observation, "ndim", None) != 1:
        shapes = jax.tree.map(lambda x: x.shape, observation)
        raise ValueError(f"playground/{name} must observe one flat vector, got {shapes}")
    one = np.ones(task.action_size, np.float32)
    terminates = name not in registry.dm_control_suite.ALL_ENVS  # those end at their limit only
    made = TaskSpec(observation.size, -one, one, config.episode_length, terminates=terminates)
    return Environment(reset, step, made)


def _seen(observation: Any) -> Any:
    return observation["state"] if isinstance(observation, Mapping) else observation


def _checked(name: str, config: Any, options: TaskOptions) -> dict[str, Any]:
    """The options over their defaults."""
    valid = [key for key in _leaves(config) if key not in _OWNED]
    for key in options:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(
                f"playground/{name} has no option {key!r}; the nearest are {', '.join(near)}"
            )
    return ({"impl": "jax"} if "impl" in valid else {}) | options


def _leaves(config: Any, prefix: str = "") -> list[str]:
    """Names of the settings, nested ones with dots."""
    names = []
    for key, value in config.items():
        nested = isinstance(value, type(config))
        names += _leaves(value, f"{prefix}{key}.") if nested else [prefix + key]
    return names
