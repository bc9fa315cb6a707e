"""What proposes architectures and learns from their fitness: the contract, and chance alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from nesht_jax.search.space import Architecture, Space


class Controller(NamedTuple):
    """The pure functions of one controller.

    A proposal is a function of (state, key, i) alone, so it is never stored: who needs it again
    makes it again.

    Attributes:
        canonical: architecture -> array [l] that is the same for equal architectures alone.
        init: key -> state before the first proposal.
        propose: (state, key, i) -> architecture of proposal i; one key serves a generation.
        update: (state, key, architectures [p], fitness [p]) -> state; fitness is finite, and
            maximized.
        best: state -> the architecture that is thought best.
    """

    canonical: Callable[[Architecture], Int[Array, " l"]]
    init: Callable[[Key[Array, ""]], Any]
    propose: Callable[[Any, Key[Array, ""], Any], Architecture]
    update: Callable[[Any, Key[Array, ""], Architecture, Float[Array, " p"]], Any]
    best: Callable[[Any], Architecture]


def random_search(space: Space) -> Controller:
    """Proposes uniformly, whatever comes of it; the best is that of the last generation.

    Args:
        space: what to propose from.
    """

    def propose(state: Architecture, key: Key[Array, ""], i: int | Int[Array, ""]) -> Architecture:
        return space.draw(jax.random.fold_in(key, i), space.logits)

    def update(
        state: Architecture,
        key: Key[Array, ""],
        architectures: Architecture,
        fitness: Float[Array, " p"],
    ) -> Architecture:
        return take(architectures, jnp.argmax(fitness))

    return Controller(
        canonical=space.canonical,
        init=lambda key: space.draw(key, space.logits),
        propose=propose,
        update=update,
        best=lambda state: state,
    )


def fixed(architecture: Architecture) -> Controller:
    """Proposes one architecture for ever: what is trained is its weights.

    Args:
        architecture: what is proposed; an empty dictionary, if nothing is open.
    """
    return Controller(
        canonical=lambda architecture: jnp.zeros(0, jnp.int32),
        init=lambda key: (),
        propose=lambda state, key, i: architecture,
        update=lambda state, key, architectures, fitness: state,
        best=lambda state: architecture,
    )


def take(architectures: Architecture, places: Int[Array, "*q"]) -> Architecture:
    """Takes those at some places, out of architectures stacked along their leading axis."""
    return jax.tree.map(lambda leaf: leaf[places], architectures)
