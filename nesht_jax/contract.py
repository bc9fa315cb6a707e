"""The alphabet of axes, and what an environment owes the algorithm.

Axes: ``m`` members · ``n`` directions (m/2 if mirrored, else m) · ``d`` parameters · ``o``
observation features, the task-irrelevant ones included · ``a`` actions · ``r`` rollouts.

**Fitness is maximised, everywhere.**
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Key

Params = Any
"""Any pytree of floating-point arrays; ``d`` entries in all."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """The matrix W + A Bᵀ, in place of a kernel: ``x @ it`` is x W + (x A) Bᵀ.

    Under ``vmap`` over A and B alone, x W is one product for all members.

    Attributes:
        matrix: W [in, out]; None where A Bᵀ stands alone.
        a: A [in, r].
        b: B [out, r].
    """

    matrix: Any
    a: Any
    b: Any

    def __rmatmul__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        return x @ self.matrix + (x @ self.a) @ self.b.T


def is_low_rank(leaf: Any) -> bool:
    """For ``jax.tree.map(…, is_leaf=is_low_rank)``."""
    return isinstance(leaf, LowRank)


def _itself(own: Params) -> Params:
    return own


class Members(NamedTuple):
    """The members of one generation, each made where it is needed: ``members(i)`` are its params.

    What all share need be held only once: a slot holds what its member has of its own. The fields
    are ``jax.tree_util.Partial``, so that it may cross ``jit``.

    Attributes:
        own: i -> what member i has of its own, a pytree of arrays.
        params: own -> params, for the policy; by default they are all its own.
    """

    own: Callable[[Any], Any]
    params: Callable[[Any], Params] = jax.tree_util.Partial(_itself)

    def __call__(self, i: int | Int[Array, ""]) -> Params:
        return self.params(self.own(i))


def alike(params: Params) -> Members:
    """Members that all have these params, as an evaluation wants them."""
    return Members(jax.tree_util.Partial(_nothing), jax.tree_util.Partial(_given, params))


def _nothing(i: Int[Array, ""]) -> tuple[()]:
    return ()


def _given(params: Params, own: tuple[()]) -> Params:
    return params


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

    def __call__(self, key: Key[Array, ""], members: Members, moments: Any) -> Evaluation: ...


@runtime_checkable
class HostEvaluate(Evaluate, Protocol):
    """A room that steps a simulator outside JAX; it cannot be traced.

    Where its resets come from the simulator's own random state, which moves with every call, call
    number c is a function of (seed, c, key), and ``seek`` makes the next call number c. Where the
    key gives them, ``seek`` does nothing.
    """

    def seek(self, calls: int) -> None: ...
