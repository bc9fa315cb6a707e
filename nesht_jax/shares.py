"""A population in shares, laid over a mesh of devices: of one machine or of many.

The members are cut into V shares of equal size, one after the other. A share has a queue of
episodes, moments and a part of the gradient of its own: what is computed is a function of V alone,
where it is computed one of the mesh. Between devices go, in each generation, the fitness of all
members, the moments of every share and one vector of d numbers; nothing within an episode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from nesht_jax.es import gradient
from nesht_jax.types import Evaluate, Evaluation, Moments, Params, Population

AXIS = "members"
"""Axis of a mesh."""


def make_mesh(shares: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays shares over as many devices as there are, at most one a share.

    Args:
        shares: number V of shares, a power of two.
        devices: devices of all processes; None: all that JAX has. Of these the first 2ᵃ are taken,
            for the largest a that there are devices and shares for.

    Raises:
        ValueError: if V is no power of two.
    """
    if shares < 1 or shares & (shares - 1):
        raise ValueError(f"shares must be a power of two, got {shares}")
    found = list(jax.devices() if devices is None else devices)
    number = min(shares, 2 ** (len(found).bit_length() - 1))
    chosen = sorted(found[:number], key=lambda device: device.id)
    return Mesh(np.array(chosen), (AXIS,))


def shared(evaluate: Evaluate, *, mesh: Mesh, num_members: int, shares: int) -> Evaluate:
    """Makes what plays a population share by share, each device its own shares.

    Fitness and moments do not depend on the mesh, but for the order in which XLA sums where it
    compiles for one device; see the guide on many devices.

    Args:
        evaluate: what plays one share: ``num_members / shares`` members of a suite in JAX.
        mesh: mesh of ``make_mesh``.
        num_members: members m of the whole population.
        shares: number V of shares.

    Raises:
        ValueError: if V does not divide m.
    """
    if num_members % shares:
        raise ValueError(f"{num_members} members are not cut into {shares} shares of one size")
    size = num_members // shares

    def evaluate_all(
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        def on_device(key: Any, population: Any, moments: Any, asked: Any) -> Evaluation:
            def play(share: Int[Array, ""]) -> Evaluation:
                return evaluate(key, population.share(share * size), moments, **asked)

            return _gathered(jax.lax.map(play, _own_shares(mesh, shares)))

        asked = {} if horizon is None else {"horizon": horizon}
        played = _over(mesh, on_device)(key, population, moments, asked)
        return combined(played)

    return evaluate_all


def combined(played: Evaluation) -> Evaluation:
    """Joins the evaluations of all shares, stacked in their order, to that of the population."""
    at = played.terminated_at
    return Evaluation(
        fitness=played.fitness.ravel(),
        steps=played.steps.ravel(),
        simulated_steps=played.simulated_steps.sum(dtype=jnp.int32),
        observed=None if played.observed is None else played.observed.merge_all(),
        terminated_at=None if at is None else at.reshape(-1, at.shape[-1]),
    )


def shared_noise(mesh: Mesh, shares: int) -> gradient.SumNoise:
    """Makes what computes Σ_j w_j ε_j, each device over the directions of its shares.

    The parts of the shares are added as a binary tree over the V shares has it, on any mesh.

    Args:
        mesh: mesh of ``make_mesh``.
        shares: number V of shares; it must divide the directions.
    """

    def sum_noise(
        perturbation: Callable[[Int[Array, ""]], Params], weights: Float[Array, " n"]
    ) -> Params:
        if weights.size % shares:
            raise ValueError(f"{weights.size} directions are not cut into {shares} shares")
        by_share = weights.reshape(shares, -1)

        def on_device(perturbation: Any, by_share: Any) -> Params:
            def part(share: Int[Array, ""]) -> Params:
                first = share * by_share.shape[1]
                return gradient.weighted_noise(perturbation, by_share[share], first=first)

            parts = jax.lax.map(part, _own_shares(mesh, shares))
            total, unravel = ravel_pytree(jax.tree.map(tree_sum, parts))
            return unravel(sum_across(total, mesh.size))

        return _over(mesh, on_device)(perturbation, by_share)

    return sum_noise


def tree_sum(parts: Float[Array, "v ..."]) -> Float[Array, "..."]:
    """Adds the parts as a binary tree does, neighbors first; v must be a power of two."""
    while len(parts) > 1:
        parts = parts[0::2] + parts[1::2]
    return parts[0]


def sum_across(x: Float[Array, " d"], devices: int) -> Float[Array, " d"]:
    """Adds the vectors of all devices of a mesh axis, to the bits of ``tree_sum`` over them.

    Recursive halving: every device adds ever smaller parts with ever farther partners, and at the
    end all gather the sums; a device sends 2d numbers less 2d/D, as in a ring.

    Args:
        x: vector of this device.
        devices: number D of devices of the axis, a power of two.
    """
    d, me, hop = x.size, jax.lax.axis_index(AXIS), 1
    x = jnp.pad(x, (0, -d % devices))
    while hop < devices:
        low, high = jnp.split(x, 2)
        is_upper = (me // hop) % 2 == 1
        sent, kept = jnp.where(is_upper, low, high), jnp.where(is_upper, high, low)
        pairs = [(i, i ^ hop) for i in range(devices)]
        x = kept + jax.lax.ppermute(sent, AXIS, pairs)
        hop *= 2
    return jax.lax.all_gather(x, AXIS)[_bit_reversed(devices)].ravel()[:d]


def _bit_reversed(number: int) -> Int[np.ndarray, " number"]:
    """0 ... number - 1 with the order of their bits reversed, where the parts of a sum lie."""
    order = np.zeros(1, np.int32)
    while len(order) < number:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def _own_shares(mesh: Mesh, shares: int) -> Int[Array, " own"]:
    number = shares // mesh.size
    return jax.lax.axis_index(AXIS) * number + jnp.arange(number, dtype=jnp.int32)


def _gathered(own: Any) -> Any:
    """What the shares of every device brought, in the order of the shares."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), own)


def _over(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on every device, given all, whose results are the same on all."""
    whole = PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
