"""Which weights live: the operator that maps params to sparse ones, apart from any optimizer."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from nesht_jax.sparse.significance import LEAST, TRIAL, benjamini_hochberg, p_values, walked
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
from nesht_jax.types import Params, is_phantom

Rule = Literal["top_k", "stale_quantile", "signed_quantile", "significance"]
Unit = Literal["weight", "row"]
GroupOf = Callable[[tuple[str, ...]], Hashable | None]
Scope = Literal["all", "layer"] | str | GroupOf

SCOPES: dict[str, GroupOf] = {"all": lambda path: "all", "layer": lambda path: path[:-1]}


@dataclass(frozen=True)
class Group:
    """Leaves whose weights compete for the places.

    Attributes:
        name: what ``Projection.group_of`` calls it.
        after: leaves of θ_{t+½}, after the step.
        before: leaves of θ_t, in the order of ``after``.
        phantoms: all phantoms of θ_{t+½}, in one vector.
        walk: variances of the leaves' units, see ``Projection.walk``; None where none are kept.
    """

    name: Hashable
    after: list[Array]
    before: list[Array]
    phantoms: Float[Array, " phantoms"]
    walk: list[Array] | None = None


@dataclass(frozen=True)
class Projection:
    """Maps params to sparse ones: ``projection(params)`` zeroes what ``mask`` says is dead.

    Attributes:
        group_of: path of a leaf -> group of leaves whose weights compete; None leaves it dense.
        kept: group -> masks of its leaves.
        unit: what lives or dies as one.
        staying: group -> masks of what keeps its weights at a decision, if that is more than lives;
            it judges by how far each unit may have come by chance, see ``walk``.
        ready: group -> whether enough is known to decide sooner than asked; None: never.
    """

    group_of: GroupOf
    kept: Callable[[Group], list[Bool[Array, "..."]]]
    unit: str = "weight"
    staying: Callable[[Group], list[Bool[Array, "..."]]] | None = None
    ready: Callable[[Group], Bool[Array, ""]] | None = None

    def __call__(self, params: Params) -> Params:
        return zero_dead(params, self.mask(params))

    def mask(
        self, params: Params, before: Params | None = None, walk: Params | None = None
    ) -> Params:
        """Says which weights live.

        Args:
            params: θ_{t+½}, the params after the step.
            before: θ_t, the params before it, which rule ``stale_quantile`` measures; by default
                ``params``.
            walk: see ``walk``, as it was after the last decision, which rule ``significance`` needs
                where units have outlived one.

        Returns:
            Pytree like ``params`` of bool arrays, all True in leaves outside every group, and False
            of phantoms.

        Raises:
            ValueError: if ``keep`` lacks a group of these params, or phantoms are missing.
            TypeError: if a leaf of a group is not floating-point.
        """
        return self._masks(self.kept, params, before, walk)

    def is_ready(self, params: Params, walk: Params | None) -> Bool[Array, ""]:
        """Says whether enough is known of some group to decide sooner than asked.

        Once something was decided it stays so.
        """
        if self.ready is None:
            return jnp.asarray(False)
        groups = [group for group, _ in self._groups(params, None, walk)]
        return jnp.array([self.ready(g) for g in groups] + [self.has_decided(walk)], bool).any()

    def has_decided(self, walk: Params | None) -> Bool[Array, ""]:
        """Says whether anything was decided yet: what stayed then has walked."""
        walks = jax.tree.leaves(walk)
        return jnp.array([x.any() for x in walks], bool).any()

    def stays(self, params: Params, before: Params, walk: Params | None) -> Params:
        """Says which weights a decision does not zero: the living, and those on trial.

        A unit on trial is too weak to live, and too strong to be given up: a search goes on with
        it. See ``mask`` for the arguments and what is returned.
        """
        return self._masks(self.staying or self.kept, params, before, walk)

    def _masks(
        self, rule: "Kept", params: Params, before: Params | None, walk: Params | None
    ) -> Params:
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        masks = [jnp.full_like(leaf, not is_phantom(path), bool) for path, leaf in paths]
        for group, places in self._groups(params, before, walk):
            for i, mask in zip(places, rule(group), strict=True):
                masks[i] = mask
        return jax.tree.unflatten(treedef, masks)

    def _groups(
        self, params: Params, before: Params | None, walk: Params | None
    ) -> list[tuple[Group, list[int]]]:
        """The groups, and which leaves are in each."""
        paths = jax.tree_util.tree_flatten_with_path(params)[0]
        after = [jnp.asarray(leaf) for _, leaf in paths]
        earlier = after if before is None else list(map(jnp.asarray, jax.tree.leaves(before)))
        walks = None if walk is None else jax.tree.leaves(walk)
        phantoms, places = _phantoms(paths), {}
        for i, (path, leaf) in enumerate(paths):
            if (name := self._group(path, leaf)) is not None:
                places.setdefault(name, []).append(i)
        return [
            (
                Group(
                    name,
                    [after[i] for i in chosen],
                    [earlier[i] for i in chosen],
                    phantoms,
                    None if walks is None else [walks[i] for i in chosen],
                ),
                chosen,
            )
            for name, chosen in places.items()
        ]

    def walk(
        self, params: Params, mask: Params | None = None, before: Params | None = None
    ) -> Params | None:
        """Tells how far chance alone would have brought each unit since it was last 0.

        Args:
            params: θ_{t+½}, with its phantoms.
            mask: what stays at this decision; None before the first.
            before: what this function gave at the decision before.

        Returns:
            Pytree like ``params`` of variances of one weight, an entry a unit: 0 of what was
            zeroed, and of leaves outside every group. None where the rule does not judge by it.
        """
        if self.staying is None:
            return None
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        none = [jnp.zeros(self._units(path, leaf), jnp.float32) for path, leaf in paths]
        if mask is None:
            return jax.tree.unflatten(treedef, none)
        phantoms = _phantoms(paths)
        earlier = none if before is None else jax.tree.leaves(before)
        walk = []
        for (path, leaf), old, alive in zip(paths, earlier, jax.tree.leaves(mask), strict=True):
            if self._group(path, leaf) is None:
                walk.append(old)
                continue
            lives = alive.reshape(*old.shape, -1).any(-1)
            walk.append(jnp.where(lives, walked(old, phantoms), 0))
        return jax.tree.unflatten(treedef, walk)

    def support(self, params: Params, mask: Params, key: Key[Array, ""], explore: Share) -> Params:
        """Draws which weights a search may move: those that stay, and a share of the other units.

        Phantoms are always among them, and so are leaves outside every group.

        Args:
            params: pytree that gives shapes.
            mask: True where a weight stays.
            key: key of the draw.
            explore: probability of each other unit.
        """
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        bar = jnp.asarray(explore, jnp.float32)
        support = []
        for i, ((path, leaf), alive) in enumerate(zip(paths, jax.tree.leaves(mask), strict=True)):
            if self._group(path, leaf) is None:
                support.append(jnp.ones_like(alive))
                continue
            units = self._units(path, leaf)
            bits = jax.random.bits(jax.random.fold_in(key, i), units, jnp.uint32)
            tried = (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24) < bar
            support.append(alive | _spread([tried], [leaf])[0])
        return jax.tree.unflatten(treedef, support)

    def num_weights(self, params: Params) -> int:
        """Counts the weights that have a group."""
        paths = jax.tree_util.tree_flatten_with_path(params)[0]
        return sum(leaf.size for path, leaf in paths if self._group(path, leaf) is not None)

    def _group(self, path: tuple[Any, ...], leaf: Any) -> Hashable | None:
        """Group of a leaf; phantoms have none, and a vector has no rows."""
        if is_phantom(path) or (self.unit == "row" and jnp.ndim(leaf) < 2):
            return None
        return self.group_of(_names(path))

    def _units(self, path: tuple[Any, ...], leaf: Any) -> tuple[int, ...]:
        """Shape of an array with one entry a unit of a leaf; () where the leaf has no group."""
        if self._group(path, leaf) is None:
            return ()
        return jnp.shape(leaf) if self.unit == "weight" else jnp.shape(leaf)[:1]


def _phantoms(paths: list[tuple[Any, Any]]) -> Float[Array, " phantoms"]:
    """All phantoms of params that were flattened with their paths."""
    told = [jnp.ravel(leaf).astype(jnp.float32) for path, leaf in paths if is_phantom(path)]
    return jnp.concatenate([jnp.zeros(0, jnp.float32), *told])


def make_projection(
    *,
    sparsity: Share | None = None,
    keep: Count | Mapping[Any, Count] | None = None,
    level: Share | None = None,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule | str = "top_k",
    unit: Unit | str = "weight",
) -> Projection:
    """Makes the operator that ``hard_thresholding`` applies; see there for the arguments."""
    _check(sparsity, keep, level, rule, unit)
    group_of = _grouping(scope, exempt_bias)
    if rule == "significance":
        return _significance(level, unit, group_of)
    if keep is not None:
        return Projection(group_of, _top_k(_keeps(keep), unit), unit)
    fraction = checked_sparsity(sparsity)
    if rule == "top_k":
        return Projection(group_of, _top_k(_keeps_fraction(fraction), unit), unit)
    return Projection(group_of, _quantile(fraction, stale=rule == "stale_quantile"))


def _check(sparsity: Any, keep: Any, level: Any, rule: str, unit: str) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")
    if rule == "significance":
        if level is None or sparsity is not None or keep is not None:
            raise ValueError(
                "rule significance finds how many to keep: give level, and neither sparsity nor "
                f"keep; got {level=}, {sparsity=}, {keep=}"
            )
        if isinstance(level, int | float | np.floating) and not 0 < level < 1:
            raise ValueError(f"level must be in (0, 1), got {level}")
        return
    if level is not None:
        raise ValueError(f"level goes with rule significance, got {level} with rule {rule}")
    if (sparsity is None) == (keep is None):
        raise ValueError(f"give sparsity or keep, one of them; got {sparsity=}, {keep=}")
    if keep is not None and rule != "top_k":
        raise ValueError(f"rule {rule!r} is a quantile: give sparsity instead of keep")
    if unit == "row" and rule != "top_k":
        raise ValueError(f"rule {rule!r} is of weights: rows go with top_k or significance")


Kept = Callable[[Group], list[Bool[Array, "..."]]]


def _top_k(k_of: Callable[[Hashable, int], Count], unit: str) -> Kept:
    def kept(group: Group) -> list[Array]:
        scores = group.after if unit == "weight" else [_row_norms(x) for x in group.after]
        masks = top_k_mask(scores, k_of(group.name, sum(score.size for score in scores)))
        return _spread(masks, group.after)

    return kept


def _significance(level: Any, unit: str, group_of: GroupOf) -> Projection:
    """Keeps the units that chance would not have brought so far, at least one."""

    def judged(group: Group) -> tuple[Array, Array, list[Array]]:
        """p and energy of every unit; and the energies leaf by leaf."""
        if not group.phantoms.size:
            raise ValueError("rule significance needs phantoms: see sparse.significance")
        wide = [leaf.astype(jnp.float32) for leaf in group.after]
        energies = [jnp.square(x) if unit == "weight" else _row_norms(x) ** 2 for x in wide]
        sizes = [
            jnp.full(e.size, x.size // max(e.size, 1), jnp.int32)
            for e, x in zip(energies, wide, strict=True)
        ]
        energy = jnp.concatenate([e.ravel() for e in energies])
        walks = group.walk or [jnp.zeros_like(e) for e in energies]
        variance = walked(jnp.concatenate([walk.ravel() for walk in walks]), group.phantoms)
        p = p_values(energy, jnp.concatenate(sizes), variance, group.phantoms.size)
        return p, energy, energies

    def masks(group: Group, *, trial: bool) -> list[Array]:
        p, energy, energies = judged(group)
        lives, largest = benjamini_hochberg(p, level), energy.max(initial=0)
        # not >=: among NaN the largest is NaN, which must not be hidden
        lives |= ~(energy < largest) & (~lives.any() | jnp.isnan(largest))
        lives |= (p <= TRIAL) & trial
        ends = [sum(e.size for e in energies[: i + 1]) for i in range(len(energies))]
        parts = jnp.split(lives, ends[:-1])
        spread = [part.reshape(e.shape) for part, e in zip(parts, energies, strict=True)]
        return _spread(spread, group.after)

    def ready(group: Group) -> Array:
        return benjamini_hochberg(judged(group)[0], level).sum() >= LEAST

    kept, staying = (partial(masks, trial=trial) for trial in (False, True))
    return Projection(group_of, kept, unit, staying, ready)


def _row_norms(kernel: Float[Array, "rows ..."]) -> Float[Array, " rows"]:
    """‖W_r‖₂ of the weights that read input r, or channel r."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(jnp.square(wide), axis=tuple(range(1, kernel.ndim))))


def _spread(masks: list[Array], leaves: list[Array]) -> list[Bool[Array, "..."]]:
    """Masks of units as masks of the weights in them."""
    return [
        jnp.broadcast_to(m.reshape(m.shape + (1,) * (x.ndim - m.ndim)), x.shape)
        for m, x in zip(masks, leaves, strict=True)
    ]


def _quantile(sparsity: Share, stale: bool) -> Kept:
    """The published codes' rules: the bar is the β-quantile of |θ_t|, or of θ_{t+½} signed."""

    def kept(group: Group) -> list[Array]:
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
