"""The contract of a suite: what a module of ``envs`` offers, written once.

A suite turns one outside simulator into tasks. Its module ends in one record, ``SUITE``; to add a
suite, write such a module and name it in ``catalog.SUITES``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Key, UInt8

from nesht_jax.types import HostEvaluate, Task

TaskOptions = dict[str, Any]
"""Options of the simulator behind a suite, by its own names and of any YAML type."""


class SimulatorError(RuntimeError):
    """An error that a simulator raised while it was stepped or reset, and where it did.

    It is raised from the simulator's own error, so that the traceback tells both.
    """


class VectorStep(NamedTuple):
    """What one step of many host environments brings, a row an environment.

    Attributes:
        observation: what the task shows, distractors not included.
        reward: rewards of the step.
        terminated: episodes that the task ended.
        truncated: episodes that the horizon cut.
    """

    observation: Float[np.ndarray, "envs o"]
    reward: Float[np.ndarray, " envs"]
    terminated: Bool[np.ndarray, " envs"]
    truncated: Bool[np.ndarray, " envs"]


@runtime_checkable
class VectorEnv(Protocol):
    """Many environments of one host simulator, stepped together; none resets by itself.

    Attributes:
        num_envs: how many environments.
    """

    num_envs: int

    def reset(self, ids: Int[np.ndarray, " envs"]) -> Float[np.ndarray, "envs o"]:
        """Begins an episode in each of these environments; returns its first observation."""
        ...

    def step(
        self, actions: Float[np.ndarray, "envs a"], ids: Int[np.ndarray, " envs"]
    ) -> VectorStep:
        """One step in each of these environments, by what a policy says: see ``Policy.apply``."""
        ...

    def close(self) -> None:
        """Frees the simulators."""
        ...


@runtime_checkable
class MakeHostEvaluate(Protocol):
    """Makes an ``Evaluate`` of a suite that steps a simulator outside JAX.

    The arguments are those of ``tasks.make_evaluate``.
    """

    def __call__(
        self,
        task: Task,
        policy: Any,
        *,
        num_members: int,
        episodes_per_member: int,
        action_noise: float,
        common_random_numbers: bool,
        num_envs: int | None,
        seed: int,
    ) -> HostEvaluate: ...


@runtime_checkable
class Stage(Protocol):
    """One environment that can be looked at while a policy plays.

    Attributes:
        seconds: simulated time of a step, for films as fast as life.
    """

    seconds: float

    def reset(self) -> Float[np.ndarray, " features"]:
        """Begins an episode; returns what the policy sees, distractors included."""
        ...

    def step(
        self, action: Float[np.ndarray, " a"]
    ) -> tuple[Float[np.ndarray, " features"], float, bool]:
        """One step, by what a policy says; returns what it sees then, reward, and if it is over."""
        ...

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draws the environment as it now is."""
        ...

    def close(self) -> None:
        """Frees the environment."""
        ...


class Suite(NamedTuple):
    """What a suite offers.

    Attributes:
        names: () -> names of its tasks, without the suite's own.
        make: (name, options) -> task without distractors, with the task's own horizon. Where
            ``host_evaluate`` is None its ``simulator`` is an ``Environment``.
        resolve: name as the user gives it -> name; imports the module of ``module:Id``.
        host_evaluate: maker of an ``Evaluate``, where the simulator is stepped outside JAX; None
            where it is written in JAX.
        vector: (task, num_envs, seed) -> ``VectorEnv``, where the simulator is stepped outside JAX.
        reference_observations: (task, number, seed) -> what policies would see, distractors
            included, if they acted at random, for virtual batch normalization.
        distractors: (task, num_envs) -> ``HostDistractors`` of an environment in each row, scaled
            as the vector shows features; where the simulator is stepped outside JAX.
        stage: (task, seed) -> ``Stage``, where the simulator draws pictures; None of a task that
            it does not draw.
    """

    names: Callable[[], list[str]]
    make: Callable[[str, TaskOptions], Task]
    resolve: Callable[[str], str] = str
    host_evaluate: MakeHostEvaluate | None = None
    vector: Callable[[Task, int, int], VectorEnv] | None = None
    reference_observations: Callable[[Task, int, int], Float[np.ndarray, "number o"]] | None = None
    distractors: Callable[[Task, int], Any] | None = None
    stage: Callable[[Task, int], Stage | None] = lambda task, seed: None


def alive_bonus(name: str, reward: float | int | None) -> float:
    """Gives ``Task.alive_bonus`` of a task that pays this reward for being healthy; None for none.

    Of an inverted pendulum, single or double, that reward is the task itself; one that stands up is
    paid it lying down as well.
    """
    is_none = name.lower().startswith(("inverted", "humanoidstandup"))
    return 0.0 if reward is None or is_none else float(reward)


def terminal_bonus(name: str, bonus: float) -> float:
    """Gives ``Task.terminal_bonus`` of a task of Gymnasium's MuJoCo, which pays this alive bonus.

    Version 4 pays it for every step of an episode that a fall terminates, version 5 where the body
    is healthy after the step.
    """
    return bonus if name.endswith("-v4") else 0.0


class Environment(NamedTuple):
    """One environment in JAX, unbatched; ``vmap`` is outside.

    Attributes:
        reset: key -> (state, observation).
        step: (state, action) -> transition. Never resets; the horizon is the rollout's business.
    """

    reset: Callable[[Key[Any, ""]], tuple[Any, Float[Any, " o"]]]
    step: Callable[[Any, Float[Any, " a"]], "Transition"]


class Transition(NamedTuple):
    """What a step of an environment in JAX brings.

    Attributes:
        state: next state of the simulator, a pytree.
        observation: what the task shows, distractors not included.
        reward: reward of the step.
        terminated: whether the task ended the episode.
    """

    state: Any
    observation: Float[Any, " o"]
    reward: Float[Any, ""]
    terminated: Bool[Any, ""]
