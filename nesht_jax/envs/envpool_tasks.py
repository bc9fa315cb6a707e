"""envpool's side of its room: which tasks there are, what they show and how they are acted on."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import envpool
import numpy as np
from envpool.registration import registry
from jaxtyping import Float

from nesht_jax.envs.host import normals, uniform_bytes
from nesht_jax.envs.task import TaskOptions, TaskSpec

_MUJOCO, _ATARI = "envpool.mujoco.gym", "envpool.atari"

_OWNED = ("num_envs", "batch_size", "seed", "env_seed", "max_episode_steps", "base_path")
_OWNED_OF_ATARI = ("episodic_life", "zero_discount_on_life_loss", "task", "max_num_players")

OBSERVATIONS = ("pixels", "ram")
"""What an Atari game may show: its stacked frames, or the 128 bytes of its memory."""


class Task(NamedTuple):
    """A task, and how its pool is talked to.

    Attributes:
        spec: sizes, bounds and horizon.
        options: for ``envpool.make``.
        shortest: the least horizon that makes sense.
        dtype: of what is shown, and of its noise features.
        scale: what the policy's view of both is multiplied by.
        observe: (observation, info) of a pool -> what is shown, [env, o].
        noise: (bits, shape) -> noise features.
        act: actions of the policies, [env, a] -> what a pool takes.
    """

    spec: TaskSpec
    options: TaskOptions
    shortest: int
    dtype: type
    scale: float
    observe: Callable[[np.ndarray, dict[str, Any]], np.ndarray]
    noise: Callable[[np.random.BitGenerator, tuple[int, ...]], np.ndarray]
    act: Callable[[Float[np.ndarray, "env a"]], np.ndarray]


def names() -> list[str]:
    """Gymnasium MuJoCo v4 and v5, and the Atari games, of the installed envpool."""
    return sorted(
        task
        for task, (module, *_) in registry.specs.items()
        if module == _ATARI or (module == _MUJOCO and task.endswith(("-v4", "-v5")))
    )


def make_task(name: str, options: TaskOptions) -> Task:
    """A task with options.

    Raises:
        ValueError: if there is no such option, it has no such value, or the room itself sets it.
    """
    return _atari(name, options) if registry.specs[name][0] == _ATARI else _mujoco(name, options)


def _mujoco(name: str, options: TaskOptions) -> Task:
    made, _ = _checked(name, options, ours=(), owned=_OWNED)
    observations, actions = made.gymnasium_observation_space, made.gymnasium_action_space
    return Task(
        spec=TaskSpec(
            observations.shape[0],
            actions.low.astype(np.float32),
            actions.high.astype(np.float32),
            made.config.max_episode_steps,
        ),
        options=options,
        shortest=1,
        dtype=np.float32,
        scale=1.0,
        observe=lambda observation, info: observation,
        noise=normals,
        act=lambda action: action.astype(np.float64),
    )


def _atari(name: str, options: TaskOptions) -> Task:
    """An episode ends with the game, not with a life; the action of the highest score is played."""
    ours = {"observation": OBSERVATIONS[0], "scaled": True}
    made, theirs = _checked(name, options, ours=tuple(ours), owned=_OWNED + _OWNED_OF_ATARI)
    ours |= {key: value for key, value in options.items() if key in ours}
    if ours["observation"] not in OBSERVATIONS:
        raise ValueError(
            f"{name} can show {' or '.join(OBSERVATIONS)}, got observation: {ours['observation']}"
        )
    if not isinstance(ours["scaled"], bool):
        raise ValueError(f"scaled must be true or false, got {ours['scaled']!r}")
    config, pixels = made.config, ours["observation"] == "pixels"
    frames = made.gymnasium_observation_space.shape
    unbounded = np.full(int(made.gymnasium_action_space.n), np.inf, np.float32)
    return Task(
        spec=TaskSpec(
            int(np.prod(frames)) if pixels else 128,
            -unbounded,
            unbounded,
            config.max_episode_steps,
            frames if pixels else None,
        ),
        options=theirs,
        shortest=1 + config.noop_max // config.frame_skip,
        dtype=np.uint8,
        scale=1 / 255 if ours["scaled"] else 1.0,
        observe=_frames if pixels else _memory,
        noise=uniform_bytes,
        act=lambda action: action.argmax(1).astype(np.int32),
    )


def _frames(observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    return observation.reshape(len(observation), -1)


def _memory(observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    return info["ram"]


def _checked(
    name: str, options: TaskOptions, *, ours: tuple[str, ...], owned: tuple[str, ...]
) -> tuple[Any, TaskOptions]:
    """envpool's own description of a task, and those of the options that are envpool's."""
    valid = [*ours, *(key for key in envpool.make_spec(name).config._fields if key not in owned)]
    for key in options:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(f"{name} has no option {key!r}; valid are {', '.join(near)}")
    theirs = {key: value for key, value in options.items() if key not in ours}
    try:
        return envpool.make_spec(name, **theirs), theirs
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be made with {theirs}: {error}") from error
