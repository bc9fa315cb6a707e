"""Gymnasium's side of its room: what is registered, and spaces as plain vectors."""

import contextlib
import difflib
import importlib
import inspect
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any, no_type_check

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Float

from nesht_jax.envs.quiet import quiet
from nesht_jax.envs.task import TaskOptions

MODES = ("sync", "async")

_OWNED = ("max_episode_steps", "num_envs", "vector_kwargs", "wrappers")


def names() -> list[str]:
    """The ids in Gymnasium's registry, without those that say only that they are gone."""
    return sorted(
        name
        for name, spec in gymnasium.registry.items()
        if not getattr(spec.entry_point, "__name__", "").startswith("_raise")
    )


def registered(name: str) -> str:
    """The id in ``module:Id-v0``, its module imported so that it can register the id.

    Raises:
        ValueError: if there is no such module.
    """
    module, colon, name = name.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"task gymnasium/{module}:{name} needs the module {module!r}, which registers it: "
                f"{error}; install it or add its folder to PYTHONPATH"
            ) from error
    return name


def make_one(name: str, options: TaskOptions) -> gymnasium.Env:
    """One environment.

    Raises:
        ValueError: if it cannot be made, or has no such option.
    """
    with _refusals(name, options), quiet():
        return gymnasium.make(gymnasium.registry[name], **_checked(name, options))


def make_vector(name: str, options: TaskOptions, *, slots: int, horizon: int) -> VectorEnv:
    """``slots`` environments that never reset by themselves, but are parked between episodes."""
    mode = options.get("vectorization_mode", MODES[0])
    kwargs = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
    if mode == "async":
        # a fork of a process with threads, as JAX has them, may hang
        methods = multiprocessing.get_all_start_methods()
        context = "forkserver" if "forkserver" in methods else "spawn"
        kwargs |= {"context": context, "max_concurrency": cores()}
    with _refusals(name, options), quiet():
        return gymnasium.make_vec(
            gymnasium.registry[name],
            num_envs=slots,
            vectorization_mode=mode,
            vector_kwargs=kwargs,
            wrappers=[_make_seat()],
            max_episode_steps=horizon,
            **_checked(name, options),
        )


def sizes(
    name: str, env: gymnasium.Env
) -> tuple[int, Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Features of a flattened observation, and the bounds of a flattened action; of ``Discrete``
    actions the policy gives a score each, without bounds.

    Raises:
        ValueError: if the observation has no fixed size, or actions are of another kind.
    """
    try:
        features = spaces.flatdim(env.observation_space)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"gymnasium/{name} must observe a fixed number of features: {error}"
        ) from error
    action = env.action_space
    if isinstance(action, spaces.Discrete):
        unbounded = np.full(int(action.n), np.inf, np.float32)
        return features, -unbounded, unbounded
    if not isinstance(action, spaces.Box):
        raise ValueError(
            f"gymnasium/{name} must act in a Box or a Discrete space, got {action}; "
            "wrap it into one and register that"
        )
    with np.errstate(over="ignore"):  # the largest float64 is float32's infinity
        low, high = (bound.ravel().astype(np.float32) for bound in (action.low, action.high))
    return features, low, high


def as_features(vector: VectorEnv, observation: Any) -> Float[np.ndarray, "slots o"]:
    """A batch of observations, each flattened: ``Discrete`` parts as one-hot, ``Dict`` by key."""
    space = vector.single_observation_space
    if isinstance(space, spaces.Box):
        return observation.reshape(len(observation), -1).astype(np.float32)
    parts = gymnasium.vector.utils.iterate(vector.observation_space, observation)
    return np.array([spaces.flatten(space, part) for part in parts], np.float32)


def as_actions(space: spaces.Space, action: Float[np.ndarray, "slots a"]) -> np.ndarray:
    """What the policies say as actions of a space; of scores the highest, the first of equals."""
    if isinstance(space, spaces.Discrete):
        return space.start + action.argmax(1)
    return action.reshape(-1, *(space.shape or ())).astype(space.dtype)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@no_type_check
def _make_seat() -> type[gymnasium.Wrapper]:
    """The wrapper of a slot: a reset without a seed parks it, and a parked one does not step.

    Made here, so that pickle takes it by value and a worker imports Gymnasium without JAX; and
    unchecked, because what checks types in tests cannot be pickled.
    """
    home = os.getpid()

    class Seat(gymnasium.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            if os.getpid() != home:
                # Ctrl-C reaches every process of a terminal; the one that trains decides
                signal.signal(signal.SIGINT, signal.SIG_IGN)

        def reset(self, *, seed=None, options=None):
            self.parked = seed is None
            if self.parked:
                return self.last, {}
            self.last, info = self.env.reset(seed=seed, options=options)
            return self.last, info

        def step(self, action):
            if self.parked:
                return self.last, 0.0, False, False, {}
            self.last, reward, terminated, truncated, _ = self.env.step(action)
            return self.last, reward, terminated, truncated, {}

    return Seat


def _checked(name: str, options: TaskOptions) -> dict[str, Any]:
    """The environment's own options."""
    mode = options.get("vectorization_mode", MODES[0])
    if mode not in MODES:
        raise ValueError(
            f"vectorization_mode must be one of {', '.join(MODES)}, got {mode!r}; "
            "other vector environments do not take a seed for each episode"
        )
    creator = gymnasium.registry[name].entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    parameters = inspect.signature(creator).parameters.values() if creator else []
    valid = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    open_ended = len(valid) < len(parameters)
    for key in options:
        known = key in ("vectorization_mode", "disable_env_checker", *valid) or open_ended
        if key in _OWNED or not known:
            near = difflib.get_close_matches(key, valid, n=3) or valid
            raise ValueError(
                f"gymnasium/{name} has no option {key!r}; the nearest are {', '.join(near)}"
            )
    return {key: value for key, value in options.items() if key != "vectorization_mode"}


@contextlib.contextmanager
def _refusals(name: str, options: TaskOptions) -> Iterator[None]:
    """What an environment refuses, as one sentence."""
    try:
        yield
    except (TypeError, ImportError, gymnasium.error.Error) as error:
        given = f" with {options}" if options else ""
        words = " ".join(str(error).split())
        raise ValueError(f"gymnasium/{name} cannot be made{given}: {words}") from error
