"""The contract of a gradient-trained agent: records of pure functions, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.types import Moments, Params, Policy

Metrics = dict[str, Any]
"""Scalars by name. ``finite`` is always there: whether all params were finite after the step. A
loss is NaN at a step without an update."""


class Experience(NamedTuple):
    """What one step of every environment brings, a row an environment.

    Attributes:
        observation: what the agent saw, distractors included.
        action: what ``Agent.act`` said; it may lie outside the bounds that the simulator got.
        reward: reward of the step.
        next_observation: what the step led to, before any reset.
        terminated: whether the task ended the episode: there is no value after it.
        truncated: whether a time limit cut the episode, which had not ended: its value goes on.
    """

    observation: Float[Any, "*batch o"]
    action: Float[Any, "*batch a"]
    reward: Float[Any, "*batch"]
    next_observation: Float[Any, "*batch o"]
    terminated: Bool[Any, "*batch"]
    truncated: Bool[Any, "*batch"]


class AgentState(NamedTuple):
    """What the next step of training needs; a checkpoint is this, whole.

    Attributes:
        key: seed of all that ``learn`` draws, never consumed: every call folds ``steps`` in.
        steps: environment steps learned from, of all environments together; below 2³¹.
        params: params of ``Agent.policy``.
        optimizer: state of the policy's optax chain; the mask of a sparse policy is in it.
        rest: pytree of the agent's own: critics, targets, what it remembers.
        moments: running moments of observations; None where the policy does not use them.
    """

    key: Key[Array, ""]
    steps: Int[Array, ""]
    params: Params
    optimizer: Any
    rest: Any
    moments: Moments | None = None


class Agent(NamedTuple):
    """The pure functions of one agent; the same ``learn`` serves JAX and host simulators.

    States may be donated. Under ``vmap``, as over seeds, every ``learn`` pays for an update, due or
    not; ``jax.lax.map`` does not.

    Attributes:
        init: key -> state before the first step; the key is consumed whole.
        act: (state, key, observations [e, o]) -> actions [e, a] that explore. Of choices they are
            scores, 1 for the one chosen and 0 for the others. The key is consumed whole.
        learn: (state, experience of e environments) -> (state, metrics). Stores it, and does its
            updates when they are due.
        policy: what is evaluated: the agent without exploration.
    """

    init: Callable[[Key[Array, ""]], AgentState]
    act: Callable[[AgentState, Key[Array, ""], Float[Array, "e o"]], Float[Array, "e a"]]
    learn: Callable[[AgentState, Experience], tuple[AgentState, Metrics]]
    policy: Policy
