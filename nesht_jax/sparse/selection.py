"""Selection: a search that finds which of its inputs matter, among many that do not.

A perturbed weight that reads an irrelevant input makes actions random, and so does each such weight
that the search has learned by chance. So a policy is played with what is known to matter, and
begins with nothing; all else is tried in small perturbations, and gathers what these say.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from nesht_jax.sparse.decisions import make_decisions
from nesht_jax.sparse.significance import benjamini_hochberg, p_values
from nesht_jax.sparse.top_k import Count, Share
from nesht_jax.sparse.units import Scope, Unit, Units, make_units, row_energies, spread
from nesht_jax.types import Params, SparseState, is_phantom

TRIAL = 0.5
"""Largest p of a unit that is promising at first; it falls to 0 at the end of the search."""

STAY = 0.3
"""Largest p of a unit that lived before and goes on living."""


def selection(
    *,
    level: Share = 0.1,
    every: Count = 20,
    begin: Count = 0,
    end: Count | None = None,
    explore: Share | None = 0.1,
    scope: Scope = "all",
    exempt_bias: bool = False,
    unit: Unit | str = "row",
    channels: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes the last transformation of an optimizer chain: what chance does not explain lives.

    A unit u, a row or a weight, walks from 0 by its updates while it is tried. So do phantoms φ,
    weights that nothing reads, see ``significance``. At a decision, with s_u² the sum over the
    periods in which u was tried of the mean φ² of each, and f = (‖θ_u‖² / a) / s_u² of its a
    weights:

    1. p_u = P(F ≥ f), F of the F-distribution with (a, P) degrees of freedom, P phantoms.
    2. u lives if the procedure of Benjamini and Hochberg finds it at ``level``, among all units of
       its group; or if it lived before, and p_u ≤ ``STAY``.
    3. Until the next decision these are tried: what lives, what is promising, p_u ≤ ``TRIAL``, and
       a share ``explore`` of the others, drawn anew. Where the search has an end, ``TRIAL`` and
       ``explore`` fall to 0 there, in proportion to the updates. Phantoms begin at 0 again.

    The state's mask is what lives: nothing before the first decision. Params hold what every unit
    has gathered, and a policy is to be played with ``center_of`` them, as ``nesht`` does: the
    gradient is the one there. The last decision zeroes what does not live, and from then on what
    lives is trained alone.

    The level holds of each decision by itself, and of independent steps, as gradient ascent makes;
    with moments of an optimizer, which make them alike, more lives than it says.

    Args:
        level: q, the share of the living that may live by chance.
        every: number of updates from one decision to the next.
        begin: number of updates before the first.
        end: number of updates after which there is none; None: no end.
        explore: share of the units that is tried though they neither live nor are promising. None
            or 1: all units are, always.
        scope: see ``hard_thresholding``.
        exempt_bias: whether leaves named ``bias`` are left alone.
        unit: see ``hard_thresholding``.
        channels: see ``hard_thresholding``.

    Raises:
        ValueError: if ``level`` is not in (0, 1), ``every`` below 1, ``begin`` negative, ``end``
            not after it, ``explore`` not in [0, 1], or ``scope`` or ``unit`` not known; from
            ``init``, if params have no phantoms, see ``with_phantoms``.
        TypeError: if ``every`` is no integer; from ``init``, if a leaf of a group is not
            floating-point.

    Reference: none for phantoms in an evolution strategy; false discoveries by Benjamini and
    Hochberg 1995, section 3.1.
    """
    if isinstance(level, int | float | np.floating) and not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    decisions = make_decisions(every, begin, end, explore)
    units = make_units(unit=unit, scope=scope, exempt_bias=exempt_bias, channels=channels)

    def init_fn(params: Params) -> Any:
        _check(units, params)
        walk = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.zeros(units.shape(path, leaf), jnp.float32), params
        )
        return SparseState(
            jnp.zeros((), jnp.int32), _outside(units, params), decisions.first_support(params), walk
        )

    def update_fn(
        updates: Params,
        state: Any,
        params: Params | None = None,
        *,
        key: Key[Array, ""] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, Any]:
        del extra_args
        if params is None:
            raise ValueError("selection needs params: update(updates, state, params)")
        steps, before = jax.tree.map(jnp.asarray, (updates, params))
        steps = jax.tree.map(lambda u, p: u.astype(jnp.result_type(u, p)), steps, before)
        if state.support is not None:
            steps = jax.tree.map(lambda u, tried: jnp.where(tried, u, 0), steps, state.support)

        def decide() -> tuple[Params, Params, Params | None, Params]:
            after, bar = optax.apply_updates(before, steps), TRIAL * decisions.left(state.updates)
            judged = _judge(units, after, state, level, bar)
            support = decisions.next_support(
                units, judged.alive, judged.promising, key, state.updates
            )
            is_over = decisions.are_over(state.updates)
            kept = _kept(steps, before, judged.alive, is_over)
            return kept, judged.alive, support, judged.walk

        def leave() -> tuple[Params, Params, Params | None, Params]:
            return steps, state.mask, state.support, state.walk

        is_due = decisions.are_due(state.updates)
        steps, mask, support, walk = jax.lax.cond(is_due, decide, leave)
        return steps, SparseState(state.updates + 1, mask, support, walk)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Judged(NamedTuple):
    """What a decision finds: masks of what lives and of what is promising, and s² of every unit."""

    alive: Params
    promising: Params
    walk: Params


def _judge(
    units: Units, after: Params, state: SparseState, level: Share, bar: Float[Array, ""]
) -> _Judged:
    leaves, treedef = jax.tree.flatten(after)
    phantoms = _phantoms(after)
    walk = jax.tree.leaves(_walked(state, jnp.mean(jnp.square(phantoms))))
    lived = jax.tree.leaves(jax.tree.map(_of_units, state.mask, state.walk))
    alive = jax.tree.leaves(_outside(units, after))
    promising = list(alive)
    for places in units.places(after).values():
        energies = [_energies(units, leaves[i], walk[i].shape) for i in places]
        sizes = [
            jnp.full(e.size, leaves[i].size // max(e.size, 1))
            for i, e in zip(places, energies, strict=True)
        ]
        variance = jnp.concatenate([walk[i].ravel() for i in places])
        p = p_values(jnp.concatenate(energies), jnp.concatenate(sizes), variance, phantoms.size)
        lives = benjamini_hochberg(p, level)
        lives |= (p <= STAY) & jnp.concatenate([lived[i].ravel() for i in places])
        for found, masks in ((lives, alive), ((p <= bar) | lives, promising)):
            ends = np.cumsum([walk[i].size for i in places])[:-1]
            for i, part in zip(places, jnp.split(found, ends), strict=True):
                masks[i] = spread(part.reshape(walk[i].shape), leaves[i])
    return _Judged(*(jax.tree.unflatten(treedef, part) for part in (alive, promising, walk)))


def _phantoms(params: Params) -> Float[Array, " phantoms"]:
    """All phantoms of params, in one vector."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    told = [jnp.ravel(leaf).astype(jnp.float32) for path, leaf in paths if is_phantom(path)]
    return jnp.concatenate([jnp.zeros(0, jnp.float32), *told])


def _walked(state: SparseState, variance: Float[Array, ""]) -> Params:
    """s² of every unit: grown, where it was tried, by what chance brought since."""
    if state.support is None:
        return jax.tree.map(lambda walk: walk + variance, state.walk)
    return jax.tree.map(
        lambda walk, tried: walk + jnp.where(_of_units(tried, walk), variance, 0),
        state.walk,
        state.support,
    )


def _of_units(mask: Bool[Array, "..."], walk: Float[Array, "..."]) -> Bool[Array, "..."]:
    """A mask of weights as one of units, which have all their weights in it or none."""
    return mask.reshape(*walk.shape, -1).any(-1)


def _outside(units: Units, params: Params) -> Params:
    """Mask of the leaves outside every group, phantoms left out."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(
            jnp.shape(leaf), units.group(path, leaf) is None and not is_phantom(path)
        ),
        params,
    )


def _energies(units: Units, leaf: Array, shape: tuple[int, ...]) -> Float[Array, " u"]:
    """‖θ_u‖² of every unit of a leaf, in an array of this shape made flat."""
    wide = leaf.astype(jnp.float32)
    return jnp.square(wide).ravel() if units.unit == "weight" else row_energies(wide, *shape)


def _kept(steps: Params, before: Params, alive: Params, is_over: Bool[Array, ""]) -> Params:
    """The steps of a decision: phantoms go to 0, and at the end all that does not live."""

    def step(path: Any, u: Array, p: Array, lives: Bool[Array, "..."]) -> Array:
        return jnp.where(lives | ~(is_phantom(path) | is_over), u, -p)

    return jax.tree_util.tree_map_with_path(step, steps, before, alive)


def _check(units: Units, params: Params) -> None:
    if not _phantoms(params).size:
        raise ValueError("selection needs phantoms: see with_phantoms")
    leaves = jax.tree.leaves(params)
    for places in units.places(params).values():
        for i in places:
            if not jnp.issubdtype(jnp.result_type(leaves[i]), jnp.floating):
                raise TypeError(f"params must be floating-point, got {jnp.result_type(leaves[i])}")
