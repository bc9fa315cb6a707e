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
from nesht_jax.sparse.units import Scope, Unit, Units, make_units, row_energies, spread
from nesht_jax.types import Params, is_phantom

Rule = Literal["top_k", "stale_quantile", "signed_quantile"]


@dataclass(frozen=True)
class Group:
    """Leaves whose weights compete for the places.

    Attributes:
        name: what ``Units.group_of`` calls it.
        after: leaves of θ_{t+½}, after the step.
        before: leaves of θ_t, in the order of ``after``.
        shapes: shapes of arrays with one entry a unit, likewise.
    """

    name: Hashable
    after: list[Array]
    before: list[Array]
    shapes: list[tuple[int, ...]]


@dataclass(frozen=True)
class Projection:
    """Maps params to sparse ones: ``projection(params)`` zeroes what ``mask`` says is dead.

    Attributes:
        units: what lives or dies as one, and which units compete.
        kept: group -> masks of its leaves.
    """

    units: Units
    kept: Callable[[Group], list[Bool[Array, "..."]]]

    def __call__(self, params: Params) -> Params:
        return zero_dead(params, self.mask(params))

    def mask(self, params: Params, before: Params | None = None) -> Params:
        """Says which weights live.

        Args:
            params: θ_{t+½}, the params after the step.
            before: θ_t, the params before it, which rule ``stale_quantile`` measures; by default
                ``params``.

        Returns:
            Pytree like ``params`` of bool arrays, all True in leaves outside every group, and False
            of phantoms.

        Raises:
            ValueError: if ``keep`` lacks a group of these params.
            TypeError: if a leaf of a group is not floating-point.
        """
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        masks = [jnp.full_like(leaf, not is_phantom(path), bool) for path, leaf in paths]
        after = [jnp.asarray(leaf) for _, leaf in paths]
        earlier = after if before is None else list(map(jnp.asarray, jax.tree.leaves(before)))
        for name, places in self.units.places(params).items():
            shapes = [self.units.shape(*paths[i]) for i in places]
            group = Group(name, [after[i] for i in places], [earlier[i] for i in places], shapes)
            for i, mask in zip(places, self.kept(group), strict=True):
                masks[i] = mask
        return jax.tree.unflatten(treedef, masks)


def make_projection(
    *,
    sparsity: Share | None = None,
    keep: Count | Mapping[Any, Count] | None = None,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule | str = "top_k",
    unit: Unit | str = "weight",
    channels: Mapping[str, int] | None = None,
) -> Projection:
    """Makes the operator that ``hard_thresholding`` applies; see there for the arguments."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    units = make_units(unit=unit, scope=scope, exempt_bias=exempt_bias, channels=channels)
    if (sparsity is None) == (keep is None):
        raise ValueError(f"give sparsity or keep, one of them; got {sparsity=}, {keep=}")
    if keep is not None and rule != "top_k":
        raise ValueError(f"rule {rule!r} is a quantile: give sparsity instead of keep")
    if unit == "row" and rule != "top_k":
        raise ValueError(f"rule {rule!r} is of weights: rows go with top_k")
    if keep is not None:
        return Projection(units, _top_k(_keeps(keep), units))
    fraction = checked_sparsity(sparsity)
    if rule == "top_k":
        return Projection(units, _top_k(_keeps_fraction(fraction), units))
    return Projection(units, _quantile(fraction, stale=rule == "stale_quantile"))


Kept = Callable[[Group], list[Bool[Array, "..."]]]


def _top_k(k_of: Callable[[Hashable, int], Count], units: Units) -> Kept:
    by_weight = units.unit == "weight"

    def kept(group: Group) -> list[Array]:
        scores = group.after
        if not by_weight:
            of_rows = zip(group.after, group.shapes, strict=True)
            scores = [jnp.sqrt(row_energies(kernel, *shape)) for kernel, shape in of_rows]
        masks = top_k_mask(scores, k_of(group.name, sum(score.size for score in scores)))
        return [spread(mask, leaf) for mask, leaf in zip(masks, group.after, strict=True)]

    return kept


def _quantile(sparsity: Share, stale: bool) -> Kept:
    """The published codes' rules: the bar is the β-quantile of |θ_t|, or of θ_{t+½} signed."""

    def kept(group: Group) -> list[Array]:
        if not sum(x.size for x in group.after):
            return [jnp.ones_like(x, bool) for x in group.after]
        chosen = [jnp.abs(x) for x in group.before] if stale else group.after
        bar = jnp.quantile(jnp.concatenate([x.ravel() for x in chosen]), sparsity)
        # not >=: among NaN the bar is NaN, which must not zero the policy
        return [~(jnp.abs(x) < bar) for x in group.after]

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
