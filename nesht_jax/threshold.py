"""Hard thresholding H_k: keep the k entries of largest magnitude, zero the others."""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from nesht_jax.contract import Params

TRIALS = 8
"""Magnitudes tried in one counting pass; a multiple of four."""

SAMPLE = 2**13
"""Entries of the sample that says where to begin, in vectors at least eight times as long."""

BLOCK = 2**10
"""Entries counted at once on a CPU, whose innermost cache holds their counters."""

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

    Searches for a magnitude that exactly k entries reach, several trials a counting pass, the first
    of them between those that a sample suggests: exact, O(d) memory, no sort, and counts are all
    that crosses devices. Where the k-th magnitude is tied there is none; then the flat index up to
    which the tied are kept is searched by bisection.
    """
    leaves, treedef = jax.tree.flatten(params)
    dtype = jnp.result_type(*leaves)
    k = jnp.minimum(jnp.asarray(k, jnp.int32), sum(leaf.size for leaf in leaves))
    found = _search(leaves, k, dtype)
    exact = found.reach_low <= k
    # kept are all that reach the bar and the first of those just below it, as many as are wanted
    bar = jnp.where(exact, found.low, found.high)
    wanted = k - jnp.where(exact, found.reach_low, found.reach_high)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))

    def just_below(before: Int[Array, ""]) -> list[Array]:
        """Masks of the entries just below the bar, up to a flat index."""
        return [
            (_magnitude(leaf, dtype) == bar - 1)
            & (
                end - leaf.size + jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape)
                < before
            )
            for end, leaf in zip(ends, leaves, strict=True)
        ]

    bits = ends[-1].bit_length()

    def set_bit(i: Array, bound: Int[Array, ""]) -> Int[Array, ""]:
        trial = bound | (jnp.int32(1) << (bits - 1 - i))
        counts = [jnp.sum(tied, dtype=jnp.int32) for tied in just_below(trial)]
        return jnp.where(jnp.stack(counts).sum() <= wanted, trial, bound)

    bound = jax.lax.cond(
        wanted > 0, lambda: jax.lax.fori_loop(0, bits, set_bit, jnp.int32(0)), lambda: jnp.int32(0)
    )
    masks = [
        (_magnitude(leaf, dtype) >= bar) | tied
        for leaf, tied in zip(leaves, just_below(bound), strict=True)
    ]
    return jax.tree.unflatten(treedef, masks)


class _Bracket(NamedTuple):
    """At least k magnitudes reach ``low``, at most k reach ``high``."""

    low: Array
    high: Array
    reach_low: Int[Array, ""]
    reach_high: Int[Array, ""]


def _search(leaves: list[Array], k: Int[Array, ""], dtype: Any) -> _Bracket:
    """Narrows the bracket until k or fewer reach its low end, or no magnitude is inside."""
    total = sum(leaf.size for leaf in leaves)
    beyond = _magnitude(jnp.array(jnp.nan, dtype), dtype) + 1
    bracket = _Bracket(jnp.zeros_like(beyond), beyond, jnp.int32(total), jnp.int32(0))

    def narrow(bracket: _Bracket, trials: Array) -> _Bracket:
        reach = _reaching(leaves, trials, dtype)
        enough = reach >= k
        return _Bracket(
            jnp.max(jnp.where(enough, trials, bracket.low)),
            jnp.min(jnp.where(enough, bracket.high, trials)),
            jnp.min(jnp.where(enough, reach, bracket.reach_low)),
            jnp.max(jnp.where(enough, bracket.reach_high, reach)),
        )

    if total >= 8 * SAMPLE and not any(map(_split, leaves)):
        sample = jnp.concatenate([leaf.ravel()[:: total // SAMPLE] for leaf in leaves])
        expected = k.astype(jnp.float32) * (sample.size / total)
        slack = 3 * jnp.sqrt(expected * (1 - expected / sample.size)) + 1
        ranks = jnp.clip(expected + jnp.array([1, -1]) * slack, 1, sample.size).astype(jnp.int32)
        low, high = jax.vmap(lambda rank: _search([sample], rank, dtype).low)(ranks)
        bracket = narrow(bracket, _between(low, high, jnp.linspace(0, 1, TRIALS)))
    return jax.lax.while_loop(
        lambda b: (b.reach_low > k) & (b.high - b.low > 1),
        lambda b: narrow(b, _trials(b, k)),
        bracket,
    )


def _trials(bracket: _Bracket, k: Int[Array, ""]) -> Array:
    """Magnitudes inside the bracket: two at its thirds, which narrow it whatever lies there, the
    others where the k-th is if all are spread evenly, give or take two standard deviations."""
    inside = (bracket.reach_low - bracket.reach_high).astype(jnp.float32)
    share = (bracket.reach_low - k) / inside
    near = share + jnp.linspace(-1, 1, TRIALS - 2) / jnp.sqrt(inside)
    places = jnp.concatenate([jnp.array([1 / 3, 2 / 3]), near])
    return jnp.clip(_between(bracket.low, bracket.high, places), bracket.low + 1, bracket.high - 1)


def _between(low: Array, high: Array, places: Array) -> Array:
    width = high - low
    offset = jnp.clip(places, 0, 1) * width.astype(jnp.float32)
    return low + jnp.minimum(offset.astype(low.dtype), width)


def _reaching(leaves: list[Array], trials: Array, dtype: Any) -> Int[Array, " trials"]:
    """How many magnitudes reach each trial."""

    def at_once(leaf: Array, trials: Array) -> Array:
        magnitude = _magnitude(leaf, dtype)
        return jnp.stack([jnp.sum(magnitude >= t, dtype=jnp.int32) for t in trials])

    def in_blocks(leaf: Array, trials: Array) -> Array:
        # A large sum's terms XLA writes to memory before it adds them, but not those of a loop.
        # Four counters share 32 bits, so 255 blocks may be counted before they are read.
        blocks, flat, fours = leaf.size // BLOCK, leaf.ravel(), trials.reshape(-1, 4)
        shifts = 8 * jnp.arange(4, dtype=jnp.uint32)

        def count_block(i: Array, counters: list[Array]) -> list[Array]:
            magnitude = _magnitude(jax.lax.dynamic_slice(flat, (i * BLOCK,), (BLOCK,)), dtype)
            return [
                counter
                + sum((magnitude >= t).astype(jnp.uint32) << (8 * i) for i, t in enumerate(four))
                for counter, four in zip(counters, fours, strict=True)
            ]

        def count_many(run: Array, reach: Array) -> Array:
            first, zero = 255 * run, [jnp.zeros(BLOCK, jnp.uint32) for _ in fours]
            last = jnp.minimum(first + 255, blocks)
            counters = jnp.stack(jax.lax.fori_loop(first, last, count_block, zero))
            apart = (counters[:, None] >> shifts[None, :, None]) & 255
            return reach + apart.sum(2, dtype=jnp.int32).ravel()

        rest = at_once(flat[blocks * BLOCK :], trials)
        return jax.lax.fori_loop(0, -(-blocks // 255), count_many, rest)

    return sum(
        (
            at_once(leaf, trials)
            if leaf.size < 4 * BLOCK or _split(leaf)
            else jax.lax.platform_dependent(leaf, trials, cpu=in_blocks, default=at_once)
            for leaf in leaves
        ),
        jnp.zeros(trials.shape, jnp.int32),
    )


def _split(leaf: Array) -> bool:
    """Whether devices share the leaf by its type: then it is summed as it lies, and not sliced."""
    return any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


def _magnitude(x: Array, dtype: Any) -> Array:
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
    keep: int | Int[Array, ""] | Mapping[Any, int] | None = None,
    every: int = 1,
    scope: Scope = "all",
    exempt_bias: bool = False,
    rule: Rule = "top_k",
) -> optax.GradientTransformation:
    """The last link of an optimizer chain: makes ``params + updates`` k-sparse.

    Args:
        sparsity: β, the fraction zeroed of each group; k = d - floor(β d).
        keep: k itself, for each group, instead of β; may be traced. Or k by group.
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
            [0, 1), every k and ``every`` are positive; or if a quantile rule is asked for by
            ``keep``.

    Reference: Gao et al. 2024 (arXiv 2405.01615), θ_{t+1} = H_k(θ_{t+½}).
    """
    if (sparsity is None) == (keep is None):
        raise ValueError(f"give sparsity or keep, one of them; got {sparsity=}, {keep=}")
    if sparsity is None and rule != "top_k":
        raise ValueError(f"rule {rule!r} is a quantile: give sparsity instead of keep")
    if sparsity is not None:
        num_kept(1, sparsity)
    for k in keep.values() if isinstance(keep, Mapping) else [keep]:
        if isinstance(k, int) and k < 1:
            raise ValueError(f"keep must be at least 1, got {k}; to keep nothing makes no policy")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    group_of = _grouping(scope, exempt_bias)

    def kept(group: Hashable, leaves: list[Array], before: list[Array]) -> list[Array]:
        """Masks of one group: ``leaves`` is θ_{t+½}, ``before`` is θ_t."""
        if sparsity is None:
            return largest(leaves, keep[group] if isinstance(keep, Mapping) else cast(int, keep))
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
            for group, members in groups.items():
                after = [before[i] + steps[i] for i in members]
                masks = kept(group, after, [before[i] for i in members])
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
    groups = {"all": lambda path: "all", "layer": lambda path: path[:-1]}
    if not callable(scope) and scope not in groups:
        raise ValueError(f'scope must be "all", "layer" or a function of the path, got {scope!r}')
    group = scope if callable(scope) else groups[scope]
    return lambda path: None if exempt_bias and path[-1:] == ("bias",) else group(path)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
