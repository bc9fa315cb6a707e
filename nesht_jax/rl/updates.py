"""What the updates of all agents share: one step of any optimizer, its mask, and checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from nesht_jax.sparse.gradient_snr import gradient_snr
from nesht_jax.sparse.top_k import zero_dead
from nesht_jax.types import Params, mask_of


class Trained(NamedTuple):
    """Params with the state of the optimizer that trains them.

    Attributes:
        params: what is trained.
        optimizer: state of its optax chain; the mask of sparse params is in it.
    """

    params: Params
    optimizer: Any


FirstWeights = Callable[[Key[Array, ""], Params, Params], Params]
"""``(key, params as they were drawn, mask) -> params``, those that do not live 0."""


def as_drawn(key: Key[Array, ""], params: Params, mask: Params) -> Params:
    """Leaves first weights as they were drawn for a dense network, but those that do not live."""
    del key
    return zero_dead(params, mask)


def begin(
    optimizer: optax.GradientTransformation,
    params: Params,
    first_weights: FirstWeights = as_drawn,
    key: Any = None,
) -> Trained:
    """Starts an optimizer on params, made sparse where it has a mask.

    Args:
        optimizer: what trains them.
        params: params as they were drawn.
        first_weights: what is made of them where there is a mask.
        key: key that it is given.
    """
    state = optimizer.init(params)
    mask = mask_of(state, params)
    if mask is None:
        return Trained(params, state)
    return Trained(first_weights(key, params, mask), state)


def descend(
    optimizer: optax.GradientTransformation,
    trained: Trained,
    gradient: Params,
    key: Key[Array, ""],
) -> Trained:
    """Does one update against the gradient of a loss.

    The optimizer is given the raw gradient and, where it takes one, the key.
    """
    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(gradient, trained.optimizer, trained.params, key=key)
    return Trained(optax.apply_updates(trained.params, updates), state)


def mean_snr(
    loss: Callable[[Params, Any], Float[Array, ""]],
    params: Params,
    batch: Any,
) -> Float[Array, ""]:
    """Averages ``gradient_snr`` over all weights, dead ones too.

    Args:
        loss: (params, batch) -> mean loss of its samples, of one as of many.
        params: where the gradient is taken.
        batch: pytree of arrays with the samples along their leading axis.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), section 4.4.
    """

    def of_one(params: Params, sample: Any) -> Float[Array, ""]:
        return loss(params, jax.tree.map(lambda x: x[None], sample))

    leaves = jax.tree.leaves(gradient_snr(of_one, params, batch))
    return jnp.concatenate([leaf.ravel() for leaf in leaves]).mean()


def masked(params: Params, optimizer_state: Any) -> Params:
    """Zeroes the weights that do not live by the mask in an optimizer's state, if there is one."""
    mask = mask_of(optimizer_state, params)
    return params if mask is None else zero_dead(params, mask)


def moved_toward(target: Params, params: Params, share: float) -> Params:
    """Moves the params of a target network: (1 - τ) target + τ params, τ the share."""
    return jax.tree.map(lambda old, new: (1 - share) * old + share * new, target, params)


def all_finite(*trees: Any) -> Bool[Array, ""]:
    """Tells whether every number of some pytrees is finite."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)], bool).all()


def check_shares(**shares: float) -> None:
    """Refuses shares outside [0, 1].

    Raises:
        ValueError: naming the first.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share}")


def check_replay(*, batch_size: int, replay_size: int, random_steps: int) -> None:
    """Refuses sizes that make no replay.

    Raises:
        ValueError: naming the size and what it must be.
    """
    if not 1 <= batch_size <= replay_size:
        raise ValueError(f"batch_size must be 1 ... replay_size, {replay_size}, got {batch_size}")
    if random_steps < 0:
        raise ValueError(f"random_steps must not be negative, got {random_steps}")
