"""envpool's side of its room: which tasks there are, what they show and how they are acted on."""

import difflib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import envpool
import numpy as np
from envpool.registration import registry
from jaxtyping import Float, UInt8

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
        observe: (observation, info) of a pool, and bits for noise -> what is shown, [env, o].
        noise: (bits, shape) -> noise features.
        act: actions of the policies, [env, a] -> what a pool takes.
    """

    spec: TaskSpec
    options: TaskOptions
    shortest: int
    dtype: type
    scale: float
    observe: Callable[[np.ndarray, dict[str, Any], np.random.BitGenerator], np.ndarray]
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
        observe=lambda observation, info, bits: observation,
        noise=normals,
        act=lambda action: action.astype(np.float64),
    )


def _atari(name: str, options: TaskOptions) -> Task:
    """An episode ends with the game, not with a life; the action of the highest score is played."""
    ours = {"observation": OBSERVATIONS[0], "scaled": True, "border": 0, "pixel_noise": 0.0}
    made, theirs = _checked(name, options, ours=tuple(ours), owned=_OWNED + _OWNED_OF_ATARI)
    ours |= {key: value for key, value in options.items() if key in ours}
    if ours["observation"] not in OBSERVATIONS:
        raise ValueError(
            f"{name} can show {' or '.join(OBSERVATIONS)}, got observation: {ours['observation']}"
        )
    if not isinstance(ours["scaled"], bool):
        raise ValueError(f"scaled must be true or false, got {ours['scaled']!r}")
    config, pixels = made.config, ours["observation"] == "pixels"
    border, deviation = ours["border"], ours["pixel_noise"]
    if type(border) is not int or border < 0:
        raise ValueError(f"border must be a number of pixels, at least 0, got {border!r}")
    if type(deviation) not in (int, float) or not 0 <= deviation < math.inf:
        raise ValueError(f"pixel_noise must be a number, at least 0, got {deviation!r}")
    if not pixels and (border or deviation):
        raise ValueError(f"border and pixel_noise are for frames, but {name} shows its memory")
    channels, height, width = made.gymnasium_observation_space.shape
    frames = (channels, height + 2 * border, width + 2 * border)
    unbounded = np.full(int(made.gymnasium_action_space.n), np.inf, np.float32)
    return Task(
        spec=TaskSpec(
            int(np.prod(frames)) if pixels else 128,
            -unbounded,
            unbounded,
            config.max_episode_steps,
            frames if pixels else None,
            config.frame_skip,
        ),
        options=theirs,
        shortest=1 + config.noop_max // config.frame_skip,
        dtype=np.uint8,
        scale=1 / 255 if ours["scaled"] else 1.0,
        observe=functools.partial(_frames, border=border, deviation=deviation)
        if pixels
        else _memory,
        noise=uniform_bytes,
        act=lambda action: action.argmax(1).astype(np.int32),
    )


def _frames(
    observation: UInt8[np.ndarray, "env channels height width"],
    info: dict[str, Any],
    bits: np.random.BitGenerator,
    *,
    border: int,
    deviation: float,
) -> UInt8[np.ndarray, "env o"]:
    """Frames with Gaussian noise in whole numbers, inside a border of uniform noise."""
    if deviation:
        noise = np.rint(deviation * normals(bits, observation.shape))
        observation = np.clip(observation + noise, 0, 255).astype(np.uint8)
    if border:
        env, channels, height, width = observation.shape
        framed = uniform_bytes(bits, (env, channels, height + 2 * border, width + 2 * border))
        framed[..., border:-border, border:-border] = observation
        observation = framed
    return observation.reshape(len(observation), -1)


def _memory(
    observation: np.ndarray, info: dict[str, Any], bits: np.random.BitGenerator
) -> UInt8[np.ndarray, "env 128"]:
    return info["ram"]


def random_observations(
    name: str, options: TaskOptions, *, number: int, noise: int, seed: int
) -> Float[np.ndarray, "number features"]:
    """What policies would see if they acted at random: the first steps of one simulator."""
    task, choose = make_task(name, options), np.random.default_rng(seed)
    bits = np.random.SFC64(seed)
    pool = envpool.make(name, env_type="gymnasium", num_envs=1, seed=seed, **task.options)
    observation, info = pool.reset()
    seen = []
    for _ in range(number):
        shown = task.observe(observation, info, bits)
        features = task.noise(bits, (1, noise * shown.shape[1]))
        seen.append(np.concatenate([shown, features], axis=1))
        action = choose.uniform(-1, 1, (1, len(task.spec.action_low)))
        observation, *_, info = pool.step(task.act(action.astype(np.float32)))
    return task.scale * np.concatenate(seen).astype(np.float32)


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
