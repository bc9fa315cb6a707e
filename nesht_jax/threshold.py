"""Hard thresholding H_k: keep the k entries of largest magnitude, zero the others."""

import itertools
import math
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from nesht_jax.contract import Params

Rule = Literal["top_k", "stale_quantile", "signed_quantile"]
Scope = Literal["all", "layer"] | Callable[[tuple[str, ...]], Hashable | None]


def num_kept(d: int, sparsity: float) -> int:
    """k = d - floor(β d), β taken as the decimal it was written as: 0.29 of 100 leaves 71, not 72.

    Raises:
        ValueError: if β is outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity must be in [0, 1), got {sparsity}; to keep nothing makes no policy"
        )
    return d - math.floor(Fraction(str(sparsity)) * d)


def hard_threshold(params: Params, k: int | Int[Array, ""]) -> Params:
    """H_k(x), the nearest point to x with at most k non-zero entries.

    Keeps exactly min(k, d) entries, by magnitude over all leaves together. Ties go to the lowest
    flat index. NaN counts as the largest magnitude, so that it is never hidden.

    Args:
        params: any pytree of floating-point arrays.
        k: entries kept; may be traced, so a sweep over k is a ``vmap``.

    Raises:
        TypeError: if a leaf is not floating-point.
    """
    return jax.tree.map(lambda x, kept: jnp.where(kept, x, 0), params, largest(params, k))


def largest(params: Params, k: int | Int[Array, ""]) -> Params:
    """The mask of H_k: True at the min(k, d) entries that it keeps.

    The k-th largest magnitude is found by bisection on its bit pattern, one counting pass a bit,
    and so is, where it is tied, the flat index up to which the tied are kept: exact, O(d) memory,
    no sort, and a sum is all that crosses devices.
    """
    leaves, treedef = jax.tree.flatten(params)
    magnitudes = [_magnitude_bits(leaf, jnp.result_type(*leaves)) for leaf in leaves]
    dtype = magnitudes[0].dtype

    def count(predicate: Callable[[Array], Array]) -> Array:
        return jnp.array([jnp.sum(predicate(m), dtype=jnp.int32) for m in magnitudes]).sum()

    def set_bit(i: Array, found: Array) -> Array:
        trial = found | (jnp.ones((), dtype) << (bits - 1 - i).astype(dtype))
        return jnp.where(count(lambda m: m >= trial) >= k, trial, found)

    bits = jnp.iinfo(dtype).bits - 1
    kth = jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((), dtype))
    wanted = jnp.asarray(k, jnp.int32) - count(lambda m: m > kth)
    tied = count(lambda m: m == kth)

    def all_tied() -> list[Array]:
        return [m >= kth for m in magnitudes]

    def first_tied() -> list[Array]:
        ends = list(itertools.accumulate(m.size for m in magnitudes))
        places = [
            end - m.size + jnp.arange(m.size, dtype=jnp.int32).reshape(m.shape)
            for end, m in zip(ends, magnitudes, strict=True)
        ]

        def before(bound: Array) -> list[Array]:
            return [(m == kth) & (at < bound) for m, at in zip(magnitudes, places, strict=True)]

        def set_bit_of_bound(i: Array, bound: Array) -> Array:
            trial = bound | (jnp.int32(1) << (30 - i))
            tied_before = jnp.array([jnp.sum(tie, dtype=jnp.int32) for tie in before(trial)]).sum()
            return jnp.where(tied_before <= wanted, trial, bound)

        bound = jax.lax.fori_loop(0, 31, set_bit_of_bound, jnp.int32(0))
        return [(m > kth) | tie for m, tie in zip(magnitudes, before(bound), strict=True)]

    return jax.tree.unflatten(treedef, jax.lax.cond(tied <= wanted, all_tied, first_tied))


def _magnitude_bits(x: Array, dtype: Any) -> Array:
    """|x| as unsigned integers that order as the magnitudes do, every NaN above inf and equal.

    Integers, because a float comparison may flush subnormals to zero, and drops NaN.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"hard_threshold needs floating-point leaves, got {x.dtype}")
    wide, bits = (jnp.float64, jnp.uint64) if dtype.itemsize == 8 else (jnp.float32, jnp.uint32)
    pattern = jax.lax.bitcast_convert_type(x.astype(wide), bits)
    magnitude = pattern & jnp.array(jnp.iinfo(bits).max >> 1, bits)
    inf = jax.lax.bitcast_convert_type(jnp.array(jnp.inf, wide), bits)
    return jnp.minimum(magnitude, inf + 1)


class HardThresholdingState(NamedTuple):
    """Updates done so far."""

    updates: Int[Array, ""]


def hard_thresholding(
    *,
    sparsity: float | None = None,
    keep: int | Int[Array, ""] | None = None,
    every: int = 1,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule = "top_k",
) -> optax.GradientTransformation:
    """The last link of an optimizer chain: makes ``params + updates`` k-sparse.

    Args:
        sparsity: β, the fraction zeroed of each group; k = d - floor(β d).
        keep: k itself, for each group, instead of β; may be traced.
        every: thresholds updates 1, 1 + every, 1 + 2·every, …; between them the centre is dense.
        scope: who competes. ``"all"``: all entries; ``"layer"``: those of one layer; or a function
            from a leaf's path to its group, ``None`` to leave the leaf alone.
        exempt_bias: leave leaves named ``bias`` alone.
        rule: which vector sets the threshold. ``"top_k"``: θ_{t+½}, exactly (the paper).
            ``"stale_quantile"``: the β-quantile of |θ_t|, applied to θ_{t+½} (published MuJoCo
            code). ``"signed_quantile"``: the β-quantile of θ_{t+½} *with its signs*, so that only
            about 2β - 1 is zeroed (published Atari code).

    Raises:
        ValueError: unless exactly one of ``sparsity`` and ``keep`` is given, ``sparsity`` is in
            [0, 1), ``keep`` and ``every`` are positive; or if a quantile rule is asked for by
            ``keep``.

    Reference: Gao et al. 2024 (arXiv 2405.01615), θ_{t+1} = H_k(θ_{t+½}).
    """
    if (sparsity is None) == (keep is None):
        raise ValueError(f"give sparsity or keep, one of them; got {sparsity=}, {keep=}")
    if sparsity is None and rule != "top_k":
        raise ValueError(f"rule {rule!r} is a quantile: give sparsity instead of keep")
    if sparsity is not None:
        num_kept(1, sparsity)
    if isinstance(keep, int) and keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}; to keep nothing makes no policy")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    group_of = _grouping(scope, exempt_bias)

    def kept(leaves: list[Array], before: list[Array]) -> list[Array]:
        """Masks of one group: ``leaves`` is θ_{t+½}, ``before`` is θ_t."""
        if sparsity is None:
            return largest(leaves, cast(int, keep))
        if rule == "top_k":
            return largest(leaves, num_kept(sum(leaf.size for leaf in leaves), sparsity))
        chosen = [jnp.abs(x) for x in before] if rule == "stale_quantile" else leaves
        bar = jnp.quantile(jnp.concatenate([x.ravel() for x in chosen]), sparsity)
        return [jnp.abs(x) >= bar for x in leaves]

    def init_fn(params: Params) -> HardThresholdingState:
        del params
        return HardThresholdingState(jnp.zeros((), jnp.int32))

    def update_fn(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, HardThresholdingState]:
        if params is None:
            raise ValueError("hard_thresholding needs params: update(updates, state, params)")

        def threshold() -> Params:
            paths_before, treedef = jax.tree_util.tree_flatten_with_path(params)
            before = [leaf for _, leaf in paths_before]
            steps = jax.tree.leaves(updates)
            groups: dict[Hashable, list[int]] = {}
            for i, (path, _) in enumerate(paths_before):
                if (group := group_of(_names(path))) is not None:
                    groups.setdefault(group, []).append(i)
            for members in groups.values():
                masks = kept([before[i] + steps[i] for i in members], [before[i] for i in members])
                for i, mask in zip(members, masks, strict=True):
                    # -p, not a difference of sums: p + (-p) is an exact zero
                    steps[i] = jnp.where(mask, steps[i], -before[i])
            return jax.tree.unflatten(treedef, steps)

        if every == 1:
            updates = threshold()
        else:
            updates = jax.lax.cond(state.updates % every == 0, threshold, lambda: updates)
        return updates, HardThresholdingState(state.updates + 1)

    return optax.GradientTransformation(init_fn, update_fn)


def masked_moments(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Zeroes, in the state of a whole chain, every moment whose weight is zero after the update.

    Without it Adam's momentum brings a zeroed weight back at once.
    """

    def update_fn(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        updates, state = optimizer.update(updates, state, params)
        after = jax.tree.map(jnp.add, params, updates)
        masked = optax.tree.map_params(
            optimizer, lambda moment, p: jnp.where(p == 0, 0, moment), state, after
        )
        return updates, masked

    return optax.GradientTransformation(optimizer.init, update_fn)


def _grouping(scope: Scope, exempt_bias: bool) -> Callable[[tuple[str, ...]], Hashable | None]:
    if callable(scope):
        group = scope
    elif scope == "all":
        group = lambda path: "all"  # noqa: E731
    elif scope == "layer":
        group = lambda path: path[:-1]  # noqa: E731
    else:
        raise ValueError(f'scope must be "all", "layer" or a function of the path, got {scope!r}')
    return lambda path: None if exempt_bias and path[-1:] == ("bias",) else group(path)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
