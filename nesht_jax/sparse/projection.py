"""Which weights live: the operator that maps params to sparse ones, apart from any optimizer."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from nesht_jax.sparse.top_k import (
    Count,
    Share,
    checked_count,
    checked_sparsity,
    num_kept,
    num_kept_of_array,
    top_k_mask,
    zero_dead,
)
from nesht_jax.types import Params

Rule = Literal["top_k", "stale_quantile", "signed_quantile"]
GroupOf = Callable[[tuple[str, ...]], Hashable | None]
Scope = Literal["all", "layer"] | str | GroupOf

SCOPES: dict[str, GroupOf] = {"all": lambda path: "all", "layer": lambda path: path[:-1]}


@dataclass(frozen=True)
class Projection:
    """Maps params to sparse ones: ``projection(params)`` zeroes what ``mask`` says is dead.

    Attributes:
        group_of: path of a leaf -> group of leaves whose weights compete; None leaves it dense.
        kept: (group, its leaves of θ_{t+½}, its leaves of θ_t) -> masks of these leaves.
    """

    group_of: GroupOf
    kept: Callable[[Hashable, list[Array], list[Array]], list[Bool[Array, "..."]]]

    def __call__(self, params: Params) -> Params:
        return zero_dead(params, self.mask(params))

    def mask(self, params: Params, before: Params | None = None) -> Params:
        """Says which weights live.

        Args:
            params: θ_{t+½}, the params after the step.
            before: θ_t, the params before it, which rule ``stale_quantile`` measures; by default
                ``params``.

        Returns:
            Pytree like ``params`` of bool arrays, all True in leaves outside every group.

        Raises:
            ValueError: if ``keep`` lacks a group of these params.
            TypeError: if a leaf of a group is not floating-point.
        """
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        after = [jnp.asarray(leaf) for _, leaf in paths]
        earlier = after if before is None else list(map(jnp.asarray, jax.tree.leaves(before)))
        groups: dict[Hashable, list[int]] = {}
        for i, (path, _) in enumerate(paths):
            if (group := self.group_of(_names(path))) is not None:
                groups.setdefault(group, []).append(i)
        masks = [jnp.ones_like(leaf, bool) for leaf in after]
        for group, places in groups.items():
            kept = self.kept(group, [after[i] for i in places], [earlier[i] for i in places])
            for i, mask in zip(places, kept, strict=True):
                masks[i] = mask
        return jax.tree.unflatten(treedef, masks)


def make_projection(
    *,
    sparsity: Share | None = None,
    keep: Count | Mapping[Any, Count] | None = None,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule | str = "top_k",
) -> Projection:
    """Makes the operator that ``hard_thresholding`` applies; see there for the arguments."""
    if (sparsity is None) == (keep is None):
        raise ValueError(f"give sparsity or keep, one of them; got {sparsity=}, {keep=}")
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    group_of = _grouping(scope, exempt_bias)
    if keep is not None:
        if rule != "top_k":
            raise ValueError(f"rule {rule!r} is a quantile: give sparsity instead of keep")
        return Projection(group_of, _top_k(_keeps(keep)))
    fraction = checked_sparsity(sparsity)
    if rule == "top_k":
        return Projection(group_of, _top_k(_keeps_fraction(fraction)))
    return Projection(group_of, _quantile(fraction, stale=rule == "stale_quantile"))


def _top_k(k_of: Callable[[Hashable, int], Count]):
    def kept(group: Hashable, after: list[Array], before: list[Array]) -> list[Array]:
        return top_k_mask(after, k_of(group, sum(leaf.size for leaf in after)))

    return kept


def _quantile(sparsity: Share, stale: bool):
    """The published codes' rules: the bar is the β-quantile of |θ_t|, or of θ_{t+½} signed."""

    def kept(group: Hashable, after: list[Array], before: list[Array]) -> list[Array]:
        chosen = [jnp.abs(x) for x in before] if stale else after
        bar = jnp.quantile(jnp.concatenate([x.ravel() for x in chosen]), sparsity)
        # not >=: among NaN the bar is NaN, which must not zero the policy
        return [~(jnp.abs(x) < bar) for x in after]

    return kept


def _keeps_fraction(sparsity: Any) -> Callable[[Hashable, int], Count]:
    if isinstance(sparsity, jax.Array):
        return lambda group, d: num_kept_of_array(d, sparsity)
    return lambda group, d: num_kept(d, sparsity)


def _keeps(keep: Any) -> Callable[[Hashable, int], Count]:
    if not isinstance(keep, Mapping):
        count = checked_count("keep", keep)
        return lambda group, d: count
    counts = {group: checked_count(f"keep[{group!r}]", k) for group, k in keep.items()}

    def k_of(group: Hashable, d: int) -> Count:
        if group not in counts:
            raise ValueError(f"keep lacks group {group!r}; it has {', '.join(map(repr, counts))}")
        return counts[group]

    return k_of


def _grouping(scope: Scope, exempt_bias: bool) -> GroupOf:
    if not isinstance(exempt_bias, bool):
        raise TypeError(f"exempt_bias must be True or False, and not traced; got {exempt_bias!r}")
    if not callable(scope) and (not isinstance(scope, str) or scope not in SCOPES):
        valid = ", ".join(SCOPES)
        raise ValueError(f"scope must be one of {valid} or a function of the path, got {scope!r}")
    group = scope if callable(scope) else SCOPES[scope]
    return lambda path: None if exempt_bias and path[-1:] == ("bias",) else group(path)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
