"""envpool's tasks: which there are, what they show and how they are acted on."""

import functools
import math
import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import envpool
import numpy as np
from envpool.registration import registry
from jaxtyping import Float, Real, UInt8

from nesht_jax.envs.host import normals, uniform_bytes
from nesht_jax.envs.simulator import refusals, refuse_unknown
from nesht_jax.envs.suite import TaskOptions, alive_bonus, terminal_bonus
from nesht_jax.types import Task

_MUJOCO, _ATARI = "envpool.mujoco.gym", "envpool.atari"
_SMALL = {
    "envpool.classic_control": (
        "Acrobot-v1",
        "CartPole-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "Pendulum-v1",
    ),
    "envpool.box2d": (
        "BipedalWalker-v3",
        "BipedalWalkerHardcore-v3",
        "LunarLander-v3",
        "LunarLanderContinuous-v3",
    ),
}

_OWNED = ("num_envs", "batch_size", "seed", "env_seed", "max_episode_steps", "base_path")
_OWNED_OF_ATARI = ("episodic_life", "zero_discount_on_life_loss", "task", "max_num_players")

OBSERVATIONS = ("pixels", "ram")
"""What an Atari game may show: its stacked frames, or the 128 bytes of its memory."""


class Simulator(NamedTuple):
    """How a pool of one task is made and talked to.

    Attributes:
        name: name of the task in envpool.
        options: options of ``envpool.make``.
        shortest: least horizon that makes sense, in steps.
        dtype: dtype of what is shown, and of its distractors.
        scale: factor between both and what a policy sees.
        show: (observation, info) of a pool, and random bits -> what is shown, [envs, o].
        distractors: (random bits, shape) -> distractor features.
        act: what policies say, [envs, a] -> what a pool takes.
        steps_draw: whether steps draw from the simulator's random state, as resets do.
    """

    name: str
    options: TaskOptions
    shortest: int
    dtype: type
    scale: float
    show: Callable[[np.ndarray, dict[str, Any], np.random.BitGenerator], np.ndarray]
    distractors: Callable[[np.random.BitGenerator, tuple[int, ...]], np.ndarray]
    act: Callable[[Float[np.ndarray, "envs a"]], np.ndarray]
    steps_draw: bool = False


def names() -> list[str]:
    """Lists Gymnasium's MuJoCo v4 and v5, its classic control and Box2D tasks that show features,
    and the Atari games, of the installed envpool."""
    return sorted(
        task
        for task, (module, *_) in registry.specs.items()
        if module == _ATARI
        or (module == _MUJOCO and task.endswith(("-v4", "-v5")))
        or task in _SMALL.get(module, ())
    )


def make(name: str, options: TaskOptions) -> Task:
    """Makes a task; its pools are made where it is played.

    Raises:
        ValueError: if there is no such option, it has no such value, or the suite itself sets it.
    """
    return _atari(name, options) if registry.specs[name][0] == _ATARI else _plain(name, options)


def _plain(name: str, options: TaskOptions) -> Task:
    """A task that shows features: MuJoCo, classic control or Box2D."""
    made = _checked(name, options, own={}, owned=_OWNED)
    observations, actions = observation_space(made), made.gymnasium_action_space
    discrete = not hasattr(actions, "low")
    if discrete:
        high = np.full(int(actions.n), np.inf, np.float32)
        low, act = -high, _highest
    else:
        low, high = actions.low.astype(np.float32), actions.high.astype(np.float32)
        act = functools.partial(_bounded, low=actions.low, high=actions.high)
    bonus = alive_bonus(name, getattr(made.config, "healthy_reward", None))
    return Task(
        name=f"envpool/{name}",
        options=options,
        observation_size=observations.shape[0],
        action_low=low,
        action_high=high,
        discrete=discrete,
        horizon=made.config.max_episode_steps,
        alive_bonus=bonus,
        terminal_bonus=terminal_bonus(name, bonus),
        simulator=Simulator(
            name=name,
            options=options,
            shortest=1,
            dtype=np.float32,
            scale=1.0,
            show=_features,
            distractors=normals,
            act=act,
            steps_draw=name.startswith("LunarLander"),  # its engines scatter
        ),
    )


def observation_space(made: Any) -> Any:
    """Space of what a task, or a pool, shows; a pool keeps it.

    Of some tasks envpool tells float64 bounds of float32 observations, which Gymnasium warns of.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered by casting to float32", UserWarning)
        return made.observation_space


def _atari(name: str, options: TaskOptions) -> Task:
    """An episode ends with the game, not with a life; the action of the highest score is played."""
    own = {"observation": OBSERVATIONS[0], "scaled": True, "border": 0, "pixel_noise": 0.0}
    made = _checked(name, options, own=own, owned=_OWNED + _OWNED_OF_ATARI)
    own |= {key: value for key, value in options.items() if key in own}
    _check_own_options(name, own)
    config, pixels = made.config, own["observation"] == "pixels"
    channels, height, width = observation_space(made).shape
    shape = (channels, height + 2 * own["border"], width + 2 * own["border"])
    unbounded = np.full(int(made.gymnasium_action_space.n), np.inf, np.float32)
    framed = functools.partial(_framed, border=own["border"], deviation=own["pixel_noise"])
    return Task(
        name=f"envpool/{name}",
        options=options,
        observation_size=math.prod(shape) if pixels else 128,
        action_low=-unbounded,
        action_high=unbounded,
        discrete=True,
        horizon=config.max_episode_steps,
        image_shape=shape if pixels else None,
        feature_names=() if pixels else tuple(f"byte {i}" for i in range(128)),
        frame_skip=config.frame_skip,
        simulator=Simulator(
            name=name,
            options={key: value for key, value in options.items() if key not in own},
            shortest=1 + config.noop_max // config.frame_skip,
            dtype=np.uint8,
            scale=1 / 255 if own["scaled"] else 1.0,
            show=framed if pixels else _memory,
            distractors=uniform_bytes,
            act=_highest,
            steps_draw=config.repeat_action_probability > 0,
        ),
    )


def _check_own_options(name: str, own: TaskOptions) -> None:
    border, deviation = own["border"], own["pixel_noise"]
    if own["observation"] not in OBSERVATIONS:
        raise ValueError(
            f"{name} can show {' or '.join(OBSERVATIONS)}, got observation: {own['observation']}"
        )
    if not isinstance(own["scaled"], bool):
        raise ValueError(f"scaled must be true or false, got {own['scaled']!r}")
    if type(border) is not int or border < 0:
        raise ValueError(f"border must be a number of pixels, at least 0, got {border!r}")
    if type(deviation) not in (int, float) or not 0 <= deviation < math.inf:
        raise ValueError(f"pixel_noise must be a number, at least 0, got {deviation!r}")
    if own["observation"] != "pixels" and (border or deviation):
        raise ValueError(f"border and pixel_noise are for frames, but {name} shows its memory")


def _checked(
    name: str, options: TaskOptions, *, own: Collection[str], owned: tuple[str, ...]
) -> Any:
    """envpool's own description of a task with those of the options that are envpool's."""
    theirs = [key for key in envpool.make_spec(name).config._fields if key not in owned]
    refuse_unknown(f"envpool/{name}", options, [*own, *theirs])
    passed = {key: value for key, value in options.items() if key not in own}
    with refusals(f"envpool/{name}", passed):
        return envpool.make_spec(name, **passed)


def _features(
    observation: Real[np.ndarray, "envs o"], info: dict[str, Any], stream: np.random.BitGenerator
) -> Real[np.ndarray, "envs o"]:
    return observation


def _memory(
    observation: np.ndarray, info: dict[str, Any], stream: np.random.BitGenerator
) -> UInt8[np.ndarray, "envs 128"]:
    return info["ram"]


def _framed(
    observation: UInt8[np.ndarray, "envs channels height width"],
    info: dict[str, Any],
    stream: np.random.BitGenerator,
    *,
    border: int,
    deviation: float,
) -> UInt8[np.ndarray, "envs o"]:
    """Frames with Gaussian noise in whole numbers, inside a border of uniform noise."""
    if deviation:
        noise = np.rint(deviation * normals(stream, observation.shape))
        observation = np.clip(observation + noise, 0, 255).astype(np.uint8)
    if border:
        envs, channels, height, width = observation.shape
        framed = uniform_bytes(stream, (envs, channels, height + 2 * border, width + 2 * border))
        framed[..., border:-border, border:-border] = observation
        observation = framed
    return observation.reshape(len(observation), -1)


def _bounded(
    actions: Float[np.ndarray, "envs a"],
    *,
    low: Float[np.ndarray, " a"],
    high: Float[np.ndarray, " a"],
) -> Float[np.ndarray, "envs a"]:
    # np.clip takes three times as long for so few numbers
    return np.minimum(np.maximum(actions.astype(np.float64), low), high)


def _highest(scores: Float[np.ndarray, "envs a"]) -> np.ndarray:
    return scores.argmax(1).astype(np.int32)
