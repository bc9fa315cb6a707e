"""What lives or dies as one: single weights, or rows, all weights of an input."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from nesht_jax.sparse.top_k import Share, checked_count
from nesht_jax.types import Params, is_phantom

Unit = Literal["weight", "row"]
GroupOf = Callable[[tuple[str, ...]], Hashable | None]
Scope = Literal["all", "layer"] | str | GroupOf

SCOPES: dict[str, GroupOf] = {"all": lambda path: "all", "layer": lambda path: path[:-1]}


@dataclass(frozen=True)
class Units:
    """Tells which weights live or die as one, and which of these units compete.

    Attributes:
        group_of: path of a leaf -> group of leaves whose units compete; None leaves it dense.
        unit: "weight"; or "row": all weights of an input, in filters of an input channel. Vectors,
            as biases, have no rows, and phantoms no group.
        channels: number of input channels of kernels that are matrices of filters, by path.
    """

    group_of: GroupOf
    unit: Unit = "weight"
    channels: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def group(self, path: tuple[Any, ...], leaf: Any) -> Hashable | None:
        """Gives the group of a leaf; None if it takes no part."""
        if is_phantom(path) or (self.unit == "row" and jnp.ndim(leaf) < 2):
            return None
        return self.group_of(_names(path))

    def shape(self, path: tuple[Any, ...], leaf: Any) -> tuple[int, ...]:
        """Gives the shape of an array with one entry a unit; () where the leaf has no group.

        Raises:
            ValueError: if a kernel does not divide among the channels that it is said to have.
        """
        if self.group(path, leaf) is None:
            return ()
        if self.unit == "weight":
            return jnp.shape(leaf)
        (length, *_), names = jnp.shape(leaf), _names(path)
        rows = self.channels.get(names, length)
        if rows and length % rows:
            raise ValueError(f"{'/'.join(names)} has {length} rows, not those of {rows} channels")
        return (rows,)

    def places(self, params: Params) -> dict[Hashable, list[int]]:
        """Lists the leaves of every group, by their places among all leaves."""
        places: dict[Hashable, list[int]] = {}
        for i, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
            if (name := self.group(path, leaf)) is not None:
                places.setdefault(name, []).append(i)
        return places

    def num_weights(self, params: Params) -> int:
        """Counts the weights that have a group."""
        leaves = jax.tree.leaves(params)
        return sum(leaves[i].size for places in self.places(params).values() for i in places)

    def support(self, mask: Params, key: Key[Array, ""], explore: Share) -> Params:
        """Draws which weights a search may move: those of a mask, and a share of the other units.

        Phantoms are always among them, and so are leaves outside every group.

        Args:
            mask: pytree like params; True where a weight may move anyhow.
            key: key of the draw.
            explore: probability of each other unit.
        """
        paths, treedef = jax.tree_util.tree_flatten_with_path(mask)
        bar = jnp.asarray(explore, jnp.float32)
        support = []
        for i, (path, alive) in enumerate(paths):
            if self.group(path, alive) is None:
                support.append(jnp.ones_like(alive))
                continue
            bits = jax.random.bits(jax.random.fold_in(key, i), self.shape(path, alive), jnp.uint32)
            tried = (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24) < bar
            support.append(alive | spread(tried, alive))
        return jax.tree.unflatten(treedef, support)


def make_units(
    *,
    unit: Unit | str = "weight",
    scope: Scope = "all",
    exempt_bias: bool = False,
    channels: Mapping[str, int] | None = None,
) -> Units:
    """Makes the units of a transformation; see ``hard_thresholding`` for the arguments."""
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")
    if not isinstance(exempt_bias, bool):
        raise TypeError(f"exempt_bias must be True or False, and not traced; got {exempt_bias!r}")
    if not callable(scope) and (not isinstance(scope, str) or scope not in SCOPES):
        valid = ", ".join(SCOPES)
        raise ValueError(f"scope must be one of {valid} or a function of the path, got {scope!r}")
    group = scope if callable(scope) else SCOPES[scope]
    counts = {path: checked_count(f"channels[{path!r}]", n) for path, n in (channels or {}).items()}
    return Units(
        lambda path: None if exempt_bias and path[-1:] == ("bias",) else group(path),
        "row" if unit == "row" else "weight",
        {tuple(path.split("/")): number for path, number in counts.items()},
    )


def row_energies(kernel: Float[Array, "..."], rows: int) -> Float[Array, " {rows}"]:
    """Sums, of every input or input channel, the squares of the weights that read it."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    return jnp.sum(jnp.square(wide).reshape(rows, wide.size // max(1, rows)), axis=1)


def spread(mask: Bool[Array, "..."], leaf: Array) -> Bool[Array, "..."]:
    """Gives the mask of units as one of the weights in them, which follow each other."""
    if mask.shape == leaf.shape:
        return mask
    rows = mask.reshape(mask.shape + (1,) * (leaf.ndim - 1))
    if len(mask) != len(leaf):
        rows = jnp.repeat(rows, len(leaf) // len(mask), axis=0)
    return jnp.broadcast_to(rows, leaf.shape)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
