"""The alphabet of axes, and what an environment owes the algorithm.

Axes: ``m`` members · ``n`` directions (m/2 if mirrored, else m) · ``d`` parameters · ``o``
observation features, the task-irrelevant ones included · ``a`` actions · ``r`` rollouts.

**Fitness is maximised, everywhere.**
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key

Params = Any
"""Any pytree of floating-point arrays; ``d`` entries in all."""

Member = Callable[[Int[Array, ""]], Params]
"""``i -> params of member i``. A ``jax.tree_util.Partial``, so that it may cross ``jit``."""


class Evaluation(NamedTuple):
    """What one generation of rollouts brought.

    Attributes:
        fitness: undiscounted return of each member, averaged over its rollouts. To be maximised.
        steps: useful environment steps of each member: those inside its episodes.
        simulated: all environment steps that the simulator did, dead ones included.
        observed: moments of the observations that the policies acted on while their episodes
            lived; ``None`` where the policy does not use them.
    """

    fitness: Float[Array, " m"]
    steps: Int[Array, " m"]
    simulated: Int[Array, ""]
    observed: Any = None


@runtime_checkable
class Evaluate(Protocol):
    """A room: plays the episodes of every member.

    The room owns horizon, resets, termination and the average over rollouts; the core owns
    everything about params. ``key`` is consumed whole: give each generation its own.
    """

    def __call__(self, key: Key[Array, ""], member: Member, moments: Any) -> Evaluation: ...


@runtime_checkable
class HostEvaluate(Evaluate, Protocol):
    """A room that steps a simulator outside JAX; it cannot be traced.

    Where its resets come from the simulator's own random state, which moves with every call, call
    number c is a function of (seed, c, key), and ``seek`` makes the next call number c. Where the
    key gives them, ``seek`` does nothing.
    """

    def seek(self, calls: int) -> None: ...
