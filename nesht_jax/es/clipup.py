"""ClipUp: steps of one length, with momentum and a speed limit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nesht_jax.types import Params


class ClipUpState(NamedTuple):
    """State of ``clipup``.

    Attributes:
        velocity: pytree like params; what the next update adds to, in units of params an update.
    """

    velocity: Params


def clipup(
    learning_rate: float | Float[Array, ""],
    momentum: float | Float[Array, ""] = 0.9,
    max_speed: float | Float[Array, ""] | None = None,
) -> optax.GradientTransformation:
    """Makes the optimizer v ← clip(b v - α g/‖g‖₂, s), θ ← θ + v; clip(v, s) = v min(1, s/‖v‖₂).

    g is the gradient of a loss, as optax has it. Only its direction counts, so α and s are in units
    of params whatever the scale of the returns. A zero gradient has no direction: velocity decays.

    Args:
        learning_rate: α, length of the step that an update adds to the velocity.
        momentum: b, share of the velocity that stays.
        max_speed: s, largest length of the velocity; 2 α if None, as the paper recommends.

    Reference: Toklu, Liskowski, Srivastava 2020 (ClipUp, arXiv 2008.02387), algorithm 1.
    """
    limit = 2 * learning_rate if max_speed is None else max_speed

    def init_fn(params: Params) -> ClipUpState:
        return ClipUpState(jax.tree.map(jnp.zeros_like, params))

    def turned(v: Array, u: Array) -> Array:
        return (momentum * v - u).astype(v.dtype)

    def update_fn(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, ClipUpState]:
        del params
        step = _to_length(updates, learning_rate, at_most=False)
        velocity = jax.tree.map(turned, state.velocity, step)
        velocity = _to_length(velocity, limit, at_most=True)
        return velocity, ClipUpState(velocity)

    return optax.GradientTransformation(init_fn, update_fn)


def _to_length(tree: Params, length: float | Float[Array, ""], *, at_most: bool) -> Params:
    """The tree, scaled to a length; to at most that length if asked. Zero stays zero."""
    if not jax.tree.leaves(tree):
        return tree
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
    largest = jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(wide)]).max()
    # squares of 1e-24 leave float32's range, and the reciprocal of 1e38 is flushed to zero
    unit = largest / 16
    scaled = jax.tree.map(lambda x: x / jnp.where(unit > 0, unit, 1), wide)
    norm = optax.tree.norm(scaled)
    factor = length / jnp.where(norm > 0, norm, 1)
    if at_most:
        factor = jnp.minimum(factor, unit)
    return jax.tree.map(lambda x, s: (factor * s).astype(x.dtype), tree, scaled)
