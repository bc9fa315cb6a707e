"""Hard thresholding as an optax transformation: θ_{t+1} = H_k(θ_{t+½})."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Key

from nesht_jax.sparse.projection import Projection, Rule, Scope, Unit, make_projection
from nesht_jax.sparse.top_k import Count, Share, checked_count
from nesht_jax.types import Params, SparseState, mask_of


def hard_thresholding(
    *,
    sparsity: Share | None = None,
    keep: Count | Mapping[Any, Count] | None = None,
    level: Share | None = None,
    every: Count = 1,
    begin: Count = 0,
    end: Count | None = None,
    explore: Share | None = None,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule | str = "top_k",
    unit: Unit | str = "weight",
) -> optax.GradientTransformationExtraArgs:
    """Makes the last transformation of an optimizer chain: ``params + updates`` becomes k-sparse.

    ``sparsity``, ``keep`` and ``every`` may be traced, and so follow schedules that
    ``optax.inject_hyperparams`` injects; those of ``keep`` and ``every`` must give integers. A
    ``scope`` that is a function then goes into its ``static_args``, as it is no schedule. The value
    of a traced argument cannot be refused: a keep below 1 keeps nothing, a sparsity is rounded to
    six decimals and clipped into [0, 1).

    Args:
        sparsity: β, the fraction zeroed of each group; k = d - floor(β d).
        keep: k itself, the number of weights kept of each group, instead of β; or k by group.
        level: q, with rule ``"significance"``: the share of the living that may live by chance.
        every: number of updates from one thresholding to the next; updates begin + 1,
            begin + 1 + every, … threshold, the others are left as they are.
        begin: number of updates before the first thresholding; with rule ``"significance"`` it
            comes sooner, from a quarter of them on, once ``LEAST`` units are significant.
        end: number of updates after which none thresholds: what is dead then stays dead, and a
            search moves what lives. None: no end.
        explore: share of the dead weights, or rows, that may move until the next thresholding,
            drawn anew each time. None or 1: all, as in the paper. Else ``update`` needs a ``key``,
            which ``nesht`` gives, and perturbs no others.
        scope: group of weights that compete for k. ``"all"``: all weights; ``"layer"``: those of
            one layer, whose group is the leaf's path but its last name; or a function from a leaf's
            path, a tuple of names, to its group, ``None`` to leave the leaf alone.
        exempt_bias: whether leaves named ``bias`` are left alone.
        rule: name of the rule that sets the threshold. ``"top_k"``: magnitudes of θ_{t+½}, exactly
            (the paper). ``"stale_quantile"``: the β-quantile of |θ_t|, applied to θ_{t+½}
            (published MuJoCo code). ``"signed_quantile"``: the β-quantile of θ_{t+½} *with its
            signs*, so that only about 2β - 1 is zeroed (published Atari code). ``"significance"``:
            those that chance would not have brought so far, of which phantoms tell, see
            ``significance``; at least one. Of the others it zeroes those of p > ``TRIAL``.
        unit: what lives or dies as one. ``"weight"``; or ``"row"``: all weights of an input, in
            filters of an input channel, by their Euclidean norm; k counts inputs then, and vectors,
            as biases, are left alone.

    Raises:
        ValueError: unless exactly one of ``sparsity`` and ``keep`` is given, ``sparsity`` is in
            [0, 1), every k and ``every`` are at least 1, and ``scope`` and ``rule`` are known; if a
            quantile rule is asked for by ``keep``; from ``init``, if ``keep`` lacks a group.
        TypeError: if a k or ``every`` is no integer, or a thresholded leaf not floating-point.

    Reference: Gao et al. 2024 (arXiv 2405.01615), θ_{t+1} = H_k(θ_{t+½}).
    """
    projection = make_projection(
        sparsity=sparsity,
        keep=keep,
        level=level,
        scope=scope,
        exempt_bias=exempt_bias,
        rule=rule,
        unit=unit,
    )
    return sparsify(projection, every=every, begin=begin, end=end, explore=explore)


def sparsify(
    projection: Projection,
    *,
    every: Count = 1,
    begin: Count = 0,
    end: Count | None = None,
    explore: Share | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes the transformation that decides by a projection which weights live, at updates
    begin + 1, begin + 1 + every, begin + 1 + 2·every, …, up to update ``end``; and sooner, where
    the projection knows enough to.

    With ``explore`` below 1 its state has a support, drawn with every decision: the living weights
    and a share of the dead units. Weights outside the support stay at 0 until the next decision,
    which tries others. Else all weights move in between. The support of the last decision is what
    lives.

    Its state's mask is that of the last update: where it did not decide, all that may move live.
    """
    period = checked_count("every", every)
    if isinstance(period, int):
        period = min(period, jnp.iinfo(jnp.int32).max)
    explores_all, share = explore is None, 1.0 if explore is None else explore
    if isinstance(explore, int | float | np.floating):
        explores_all = explore == 1
        if not 0 <= explore <= 1:
            raise ValueError(f"explore must be in [0, 1], got {explore}")
    if isinstance(begin, int | np.integer) and begin < 0:
        raise ValueError(f"begin must be at least 0, got {begin}")
    if isinstance(end, int | np.integer) and isinstance(begin, int | np.integer) and end <= begin:
        raise ValueError(f"end must be more than begin, {begin}, got {end}")

    is_plain = isinstance(period, int) and isinstance(begin, int) and end is None
    decides_always = is_plain and period == 1 and begin == 0

    def init_fn(params: Params) -> Any:
        jax.eval_shape(projection.mask, params)  # what cannot be thresholded is refused here
        support = None if explores_all and end is None else _all_alive(params)
        walk = projection.walk(params)
        return SparseState(jnp.zeros((), jnp.int32), _all_alive(params), support, walk)

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
            raise ValueError("hard_thresholding needs params: update(updates, state, params)")
        draws = None if explores_all else key
        if draws is None and not explores_all:
            raise ValueError("where explore is below 1, update needs key=")
        steps, before = jax.tree.map(jnp.asarray, (updates, params))
        movable = _all_alive(before) if state.support is None else state.support
        is_last = end is not None and state.updates + period >= end

        def decide() -> tuple[Params, Params, Params | None, Params | None]:
            moved = jax.tree.map(step_or_zero, steps, before, movable)
            after = optax.apply_updates(before, moved)
            stays = projection.stays(after, before, state.walk)
            if end is not None:
                lives = projection.mask(after, before, state.walk)
                stays = _where(is_last, lives, stays)
            walk = projection.walk(after, stays, state.walk)
            decided = (
                jax.tree.map(step_or_zero, moved, before, stays),
                stays,
                next_support(stays),
                walk,
            )
            if projection.ready is None:
                return decided
            is_ready = (state.updates >= begin) | projection.is_ready(after, state.walk)
            return _where(is_ready, decided, leave())

        def next_support(stays: Params) -> Params | None:
            if state.support is None:
                return None
            tried = _all_alive(before)
            if draws is not None:
                tried = projection.support(before, stays, draws, share)
            if end is None:
                return tried
            return _where(is_last, projection.support(before, stays, jax.random.key(0), 0.0), tried)

        def leave() -> tuple[Params, Params, Params | None, Params | None]:
            return (
                jax.tree.map(step_or_zero, steps, before, movable),
                movable,
                state.support,
                state.walk,
            )

        if decides_always:
            updates, mask, support, walk = decide()
        else:
            first = begin if projection.ready is None else begin // 4
            is_due = (state.updates - begin) % jnp.asarray(period, jnp.int32) == 0
            is_due &= state.updates >= first
            if end is not None:
                is_due &= state.updates < end
            updates, mask, support, walk = jax.lax.cond(is_due, decide, leave)
        return updates, SparseState(state.updates + 1, mask, support, walk)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def step_or_zero(update: Array, param: Array, alive: Bool[Array, "..."]) -> Array:
    """Gives the update of a living weight, and the one that takes a dead weight to an exact 0."""
    # -p, not a difference of sums: p + (-p) is an exact zero
    return jnp.where(alive, update, -param)


def _where(choice: Any, chosen: Params, other: Params) -> Params:
    return jax.tree.map(partial(jnp.where, choice), chosen, other)


def _all_alive(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), params)


def masked_moments(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Makes a whole chain forget the moments of weights at the moment they are zeroed.

    Without it the momentum from before brings a zeroed weight back. It does not keep the weight at
    zero: until the next thresholding gradients move it, and Adam by more than without, as fresh
    moments are read with an old count: its first step is up to (1 - b₁) / √(1 - b₂) = 3.2 learning
    rates.

    A moment is an array of the optimizer's state that stands at the path of a weight's leaf and has
    its shape; factored moments are left as they are. Which weights are dead says ``mask_of``: one
    that lives at value 0 keeps its moments.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update_fn(
        updates: Params, state: Any, params: Params | None = None, **extra_args: Any
    ) -> tuple[Params, Any]:
        updates, state = inner.update(updates, state, params, **extra_args)
        mask = mask_of(state, params)
        return updates, state if mask is None else _forget(state, mask)

    return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _forget(state: Any, mask: Params) -> Any:
    """Zeroes, in an optimizer's state, the moments of dead weights."""
    return with_fresh_moments(state, jax.tree.map(jnp.zeros_like, state), mask)


def with_fresh_moments(state: Any, fresh: Any, mask: Params) -> Any:
    """Replaces, in an optimizer's state, the moments of weights where a mask is False.

    Args:
        state: state of an optimizer.
        fresh: another state of it, from which the moments are taken.
        mask: pytree like params of bool arrays.
    """
    alive = dict(jax.tree_util.tree_flatten_with_path(mask)[0])

    def renewed(path: tuple[Any, ...], leaf: Any, new: Any) -> Any:
        if isinstance(leaf, SparseState) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        # by path, as optax.tree.map_params fails on partitioned states and factored moments
        ends = (path[start:] for start in range(len(path) + 1))
        lives = next((alive[end] for end in ends if end in alive), None)
        if lives is None or lives.shape != leaf.shape:
            return leaf
        return jnp.where(lives, leaf, new)

    return jax.tree_util.tree_map_with_path(
        renewed, state, fresh, is_leaf=lambda node: isinstance(node, SparseState)
    )
