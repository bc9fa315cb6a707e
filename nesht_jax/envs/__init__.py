"""Rooms: each turns an outside simulator into one ``Evaluate``, named by a task string."""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import io
import platform
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from nesht_jax.contract import Evaluate
from nesht_jax.envs.rollout import Environment, make_pure_evaluate
from nesht_jax.envs.task import TaskOptions, TaskSpec
from nesht_jax.policy import Policy

ROOMS = {
    "envpool": "Gymnasium MuJoCo in C++, the fastest on a CPU; Linux only",
    "mjx": "the same Gymnasium v5 tasks in JAX, for accelerators",
    "brax": "the tasks of Brax, on any of its back ends",
    "gymnasium": "any environment of Gymnasium, your own included; on every platform",
    "gymnax": "classic control, bsuite and MinAtar in JAX",
    "playground": "MuJoCo Playground in JAX, for accelerators",
    "probe": "tiny tasks with known answers",
}
"""Name of each room and what it is."""

REMEDIES = {
    "brax": "pip install 'nesht-jax[brax]'",
    "envpool": "pip install envpool",
    "gymnax": "pip install 'nesht-jax[gymnax]'",
    "playground": "pip install 'nesht-jax[playground]'",
}
"""What installs the package of a room; the others come with ``pip install nesht-jax``."""


def task_names(room: str) -> list[str]:
    """Every task string of one room, as ``room/name``."""
    return [f"{room}/{name}" for name in _module(room).names()]


def task_spec(task: str, options: TaskOptions | None = None) -> TaskSpec:
    """Sizes, action bounds and horizon of a task, without simulating it.

    Raises:
        ValueError: if the task is unknown; the message names the nearest.
    """
    room, name = _find(task)
    return room.spec(name, options or {})


def make_evaluate(
    task: str,
    policy: Policy,
    *,
    num_members: int,
    noise: int = 0,
    rollouts: int = 1,
    horizon: int | None = None,
    action_noise: float = 0.0,
    common_random_numbers: bool = False,
    slots: int | None = None,
    seed: int = 0,
    options: TaskOptions | None = None,
) -> Evaluate:
    """The room of a task: an ``Evaluate`` for ``num_members`` members.

    Args:
        task: ``"mjx/hopper"``, ``"envpool/Hopper-v5"``, ``"gymnasium/my_module:Mine-v0"``, ….
        policy: made for ``observation_size * (1 + noise)`` features.
        num_members: m.
        noise: N; after the true observation come N times as many N(0, 1) features.
        rollouts: episodes of each member; fitness is their mean.
        horizon: steps after which an episode is cut; the task's own if None.
        action_noise: standard deviation of Gaussian noise on every action.
        common_random_numbers: members 2j and 2j + 1, a mirrored pair, share reset states.
        slots: episodes played at once, in rooms that play from a queue: all but envpool; the
            room's own choice if None.
        seed: of the simulators whose random state cannot be given by a key (envpool).
        options: of the simulator behind the room.

    Raises:
        ValueError: if the task is unknown; the message names the nearest. If ``slots`` are given
            to a room that has none. If actions are both drawn from scores and noisy.
    """
    if action_noise and policy.samples:
        raise ValueError("actions are drawn from scores already: action_noise must be 0")
    room, name = _find(task)
    rules = {
        "num_members": num_members,
        "noise": noise,
        "rollouts": rollouts,
        "horizon": horizon,
        "action_noise": action_noise,
        "common_random_numbers": common_random_numbers,
    }
    if hasattr(room, "make_host_evaluate"):
        if "slots" in inspect.signature(room.make_host_evaluate).parameters:
            rules["slots"] = slots
        elif slots is not None:
            raise ValueError(
                f"slots are for rooms that play from a queue, got {slots} for {task}, "
                "which steps only the episodes that live"
            )
        return room.make_host_evaluate(name, policy, seed=seed, options=options or {}, **rules)
    return make_pure_evaluate(make_environment(task, options), policy, slots=slots, **rules)


def reference_observations(
    task: str, *, number: int, noise: int, seed: int, options: TaskOptions | None = None
) -> Float[np.ndarray, "number features"]:
    """What policies would see if they acted at random, for virtual batch normalisation.

    Raises:
        ValueError: if the task is unknown, or its room has no such observations.
    """
    room, name = _find(task)
    if not hasattr(room, "random_observations"):
        raise ValueError(
            f"virtual batch normalisation has reference observations in envpool only, not of {task}"
        )
    return room.random_observations(name, options or {}, number=number, noise=noise, seed=seed)


def make_environment(task: str, options: TaskOptions | None = None) -> Environment:
    """The simulator of a task, unbatched, as ``reset`` and ``step``.

    Raises:
        ValueError: if the task is unknown; the message names the nearest. If its room steps a
            simulator outside JAX.
    """
    room, name = _find(task)
    if hasattr(room, "make_host_evaluate"):
        raise ValueError(f"{task} steps outside JAX, so it has no environment in JAX")
    return _environment(room, name, tuple(sorted((options or {}).items())))


@functools.cache
def _environment(room: ModuleType, name: str, options: tuple[tuple[str, Any], ...]) -> Environment:
    """One object for training and evaluation, so that JAX traces its simulator once."""
    return room.make(name, dict(options))


def _find(task: str) -> tuple[ModuleType, str]:
    room, _, name = task.partition("/")
    if room not in ROOMS:
        raise ValueError(f"unknown room {room!r} in task {task!r}; {_nearest(room, list(ROOMS))}")
    if room == "envpool" and not _has_envpool():
        warnings.warn(
            f"envpool has wheels for Linux only, so gymnasium/{name} plays instead of {task}",
            stacklevel=1,  # one place: Python says it once
        )
        room = "gymnasium"
    module = _module(room)
    if hasattr(module, "registered"):
        name = module.registered(name)
    if name not in module.names():
        raise ValueError(f"unknown task {task!r}; {_nearest(task, task_names(room))}")
    return module, name


def _has_envpool() -> bool:
    """Whether envpool tasks are envpool's to play: it has wheels for Linux only."""
    return platform.system() == "Linux" or importlib.util.find_spec("envpool") is not None


def _module(room: str) -> ModuleType:
    try:
        # MJX prints on import that it has no warp, which is no news and would spoil JSON output
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(f"nesht_jax.envs.{room}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"room {room!r} needs the package {error.name!r}: "
            f"{REMEDIES.get(room, 'pip install nesht-jax')}"
        ) from error


def _nearest(given: str, valid: list[str]) -> str:
    lowered = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(given.lower(), lowered, n=3, cutoff=0.4)
    return (
        "the nearest are " + ", ".join(lowered[c] for c in close)
        if close
        else ("`nesht envs` lists them all")
    )
