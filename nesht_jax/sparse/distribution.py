"""How many weights each layer keeps, where they do not compete with those of other layers."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from nesht_jax.types import Params

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every kernel by name, as ``types.Layer.shape`` tells it."""


def kernel_shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Lists the kernels among params: leaves of two dimensions or more, by path joined with "/"."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in leaves
        if jnp.ndim(leaf) >= 2
    }


def uniform(shapes: Shapes, keep: int) -> dict[str, int]:
    """Computes k_l = k d_l / Σ_i d_i of each kernel l of d_l weights: the same sparsity everywhere.

    Where that leaves fractions, the layers that would lose most by rounding down keep one more.
    See ``erdos_renyi_kernel`` for arguments, result and errors.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    part = min(keep, total) / total
    return _rounded({name: part * size for name, size in sizes.items()}, min(keep, total))


def erdos_renyi_kernel(shapes: Shapes, keep: int) -> dict[str, int]:
    """Computes k_l = min(d_l, ε Σ_i n_i) of each kernel l of n_0 × n_1 × … = d_l weights.

    ε is such that Σ_l k_l = k; where that leaves fractions, the layers that would lose most by
    rounding down keep one weight more. Small layers are left denser than large ones.

    Args:
        shapes: shape of every kernel by name.
        keep: k, the number of weights kept over all kernels.

    Returns:
        k_l, the number of weights kept of each kernel, by name, in the order of ``shapes``.

    Raises:
        ValueError: if k is too small to leave every kernel a weight.

    Reference: Evci et al. 2020 (RigL, arXiv 1911.11134), section 3 (1); of matrices alone Mocanu
    et al. 2018.
    """
    dense: dict[str, int] = {}
    while True:
        rest = {name: shape for name, shape in shapes.items() if name not in dense}
        if not rest:
            return {name: dense[name] for name in shapes}
        epsilon = (keep - sum(dense.values())) / sum(map(sum, rest.values()))
        # what a dense kernel cannot use, the others share; that may make another one dense
        full = {n: math.prod(s) for n, s in rest.items() if epsilon * sum(s) >= math.prod(s)}
        if not full:
            break
        dense |= full
    shares = {name: epsilon * sum(shape) for name, shape in rest.items()}
    kept = dense | _rounded(shares, keep - sum(dense.values()))
    return {name: kept[name] for name in shapes}


def _rounded(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Rounds shares to numbers of the same sum: those that lose most by rounding down get one more.

    Raises:
        ValueError: if one gets none.
    """
    kept = {name: math.floor(share) for name, share in shares.items()}
    missing = total - sum(kept.values())
    for name in sorted(shares, key=lambda name: kept[name] - shares[name])[:missing]:
        kept[name] += 1
    if empty := [name for name, k in kept.items() if k == 0]:
        raise ValueError(f"to keep {total} weights leaves {empty[0]} none: lower the sparsity")
    return kept


def split(
    actor: Shapes, critic: Shapes, *, keep: int, actor_share: float, critics: int = 2
) -> tuple[int, int]:
    """Computes how many weights the actor and each critic keep of a budget that they share.

    Args:
        actor: shape of every kernel of the actor.
        critic: shape of every kernel of one critic.
        keep: number of weights kept over all networks.
        actor_share: share of them that is the actor's.
        critics: number of critics, alike.

    Returns:
        Numbers of weights kept of the actor and of each critic.

    Raises:
        ValueError: if the share is not inside (0, 1), or a network gets none or more than it has.

    Reference: Graesser et al. 2022 (arXiv 2206.10369), section 4.3.
    """
    if not 0 < actor_share < 1:
        raise ValueError(f"actor_share must be inside (0, 1), got {actor_share}")
    of_actor = round(keep * actor_share)
    kept = {"actor": of_actor, "critic": (keep - of_actor) // critics}
    for (name, number), shapes in zip(kept.items(), (actor, critic), strict=True):
        total = sum(map(math.prod, shapes.values()))
        if not 1 <= number <= total:
            raise ValueError(
                f"actor_share {actor_share:g} of {keep} weights gives the {name} {number}, which "
                f"has {total}"
            )
    return kept["actor"], kept["critic"]
