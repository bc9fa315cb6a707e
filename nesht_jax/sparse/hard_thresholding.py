"""Hard thresholding as an optax transformation: θ_{t+1} = H_k(θ_{t+½})."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Key

from nesht_jax.sparse.decisions import all_alive, make_decisions
from nesht_jax.sparse.projection import Projection, Rule, make_projection
from nesht_jax.sparse.top_k import Count, Share
from nesht_jax.sparse.units import Scope, Unit
from nesht_jax.types import Params, SparseState, mask_of


def hard_thresholding(
    *,
    sparsity: Share | None = None,
    keep: Count | Mapping[Any, Count] | None = None,
    every: Count = 1,
    begin: Count = 0,
    end: Count | None = None,
    explore: Share | None = None,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule | str = "top_k",
    unit: Unit | str = "weight",
    channels: Mapping[str, int] | None = None,
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
        every: number of updates from one thresholding to the next; updates begin + 1,
            begin + 1 + every, … threshold, the others are left as they are.
        begin: number of updates before the first thresholding.
        end: number of updates after which none thresholds: what is dead then stays dead, and a
            search moves what lives. None: no end.
        explore: share of the dead weights, or rows, that may move until the next thresholding,
            drawn anew each time; it falls to 0 at ``end``. None or 1: all, as in the paper. Else
            ``update`` needs a ``key``, which ``nesht`` gives, and perturbs no others.
        scope: group of weights that compete for k. ``"all"``: all weights; ``"layer"``: those of
            one layer, whose group is the leaf's path but its last name; or a function from a leaf's
            path, a tuple of names, to its group, ``None`` to leave the leaf alone.
        exempt_bias: whether leaves named ``bias`` are left alone.
        rule: name of the rule that sets the threshold. ``"top_k"``: magnitudes of θ_{t+½}, exactly
            (the paper). ``"stale_quantile"``: the β-quantile of |θ_t|, applied to θ_{t+½}
            (published MuJoCo code). ``"signed_quantile"``: the β-quantile of θ_{t+½} *with its
            signs*, so that only about 2β - 1 is zeroed (published Atari code).
        unit: what lives or dies as one. ``"weight"``; or ``"row"``: all weights of an input, in
            filters of an input channel, by their Euclidean norm; k counts inputs then, and vectors,
            as biases, are left alone.
        channels: number of input channels of kernels that are matrices of filters, rows of one
            channel side by side, by path joined with "/"; other kernels have a row for each entry
            of their first axis.

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
        scope=scope,
        exempt_bias=exempt_bias,
        rule=rule,
        unit=unit,
        channels=channels,
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
    begin + 1, begin + 1 + every, begin + 1 + 2·every, …, up to update ``end``.

    With ``explore`` below 1 its state has a support, drawn with every decision: the living weights
    and a share of the dead units. Weights outside the support stay at 0 until the next decision,
    which tries others. Else all weights move in between. The support of the last decision is what
    lives.

    Its state's mask is that of the last update: where it did not decide, all that may move live.
    """
    decisions = make_decisions(every, begin, end, explore)

    def init_fn(params: Params) -> Any:
        jax.eval_shape(projection.mask, params)  # what cannot be thresholded is refused here
        return SparseState(
            jnp.zeros((), jnp.int32), all_alive(params), decisions.first_support(params)
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
            raise ValueError("hard_thresholding needs params: update(updates, state, params)")
        steps, before = jax.tree.map(jnp.asarray, (updates, params))
        movable = all_alive(before) if state.support is None else state.support
        moved = jax.tree.map(step_or_zero, steps, before, movable)

        def decide() -> tuple[Params, Params, Params | None]:
            mask = projection.mask(optax.apply_updates(before, moved), before)
            support = decisions.next_support(projection.units, mask, mask, key, state.updates)
            return jax.tree.map(step_or_zero, moved, before, mask), mask, support

        def leave() -> tuple[Params, Params, Params | None]:
            return moved, movable, state.support

        if decisions.are_always:
            updates, mask, support = decide()
        else:
            updates, mask, support = jax.lax.cond(decisions.are_due(state.updates), decide, leave)
        return updates, SparseState(state.updates + 1, mask, support)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def step_or_zero(update: Array, param: Array, alive: Bool[Array, "..."]) -> Array:
    """Gives the update of a living weight, and the one that takes a dead weight to an exact 0."""
    # -p, not a difference of sums: p + (-p) is an exact zero
    return jnp.where(alive, update, -param)


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
