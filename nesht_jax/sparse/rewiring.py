"""Optimizers that keep params sparse from the first update on: static, SET, RigL, and pruning.

Each wraps any optax optimizer. Which weights live is a mask in its state, see ``types.mask_of``;
it changes now and then, by ``Rewire``. In every update, whatever the mask does,

1. where masks are due, mask ← rewire(mask, θ, g), and moments of what does not stay become new;
2. the optimizer is given g of the living, 0 of the others;
3. living weights move as it says, the others by -θ, so that they are exactly 0 after it.

Gradients stay dense: a weight at 0 has one, which says what it would be good for.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt32

from nesht_jax.sparse.distribution import Shapes, kernel_shapes
from nesht_jax.sparse.hard_thresholding import step_or_zero, with_fresh_moments
from nesht_jax.sparse.schedule import Time, cosine, cubic, is_due, num_dropped, num_pruned
from nesht_jax.sparse.top_k import checked_count, top_k_mask, zero_dead
from nesht_jax.types import Params, SparseState

Keep = int | Mapping[str, int]
"""How many weights live: of each kernel, by path, or of all kernels together. A kernel is a leaf of
two dimensions or more; others, as biases, stay dense, and so do kernels that are not named."""

Kernels = dict[str, Array]
"""Kernels whose weights compete for places, or their masks, by path."""


class RewiringState(NamedTuple):
    """State of an optimizer whose params are sparse.

    Attributes:
        sparse: updates done, which weights live, and which of them a search may move.
        inner: state of the optimizer that was wrapped.
        key: data of the key of all that is drawn; None where nothing is.
    """

    sparse: SparseState
    inner: Any
    key: UInt32[Array, " words"] | None


Draw = Callable[[Kernels], Kernels]
"""Kernels -> draws of U(0, 1), one a weight."""


class Rewire(NamedTuple):
    """How masks begin, and how they change.

    Attributes:
        first: (draw, kernels, k) -> their masks before the first update.
        due: number of an update -> whether masks change at it.
        change: (draw, number of the update, masks, kernels, their gradients, k) -> masks.
        by_gradient: whether dead weights grow by their gradients, which a search then must tell.
    """

    first: Callable[[Draw, Kernels, int], Kernels]
    due: Callable[[Time], Bool[Array, ""]]
    change: Callable[[Draw, Time, Kernels, Kernels, Kernels, int], Kernels]
    by_gradient: bool = False


def static(
    optimizer: optax.GradientTransformation,
    *,
    keep: Keep,
    key: Key[Array, ""],
    living_only: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer of a random subset of the weights, the same from beginning to end.

    Args:
        optimizer: any optax optimizer.
        keep: number of weights that live, see ``Keep``.
        key: key of the masks.
        living_only: whether a search, as ``nesht``, perturbs living weights alone: the state then
            has a support.

    Raises:
        ValueError: from ``init``, if a kernel that is named is not there, or has fewer weights than
            are to live, or a number is below 1; if ``update`` is not given the params.
    """

    def unchanged(
        draw: Draw, time: Time, masks: Kernels, kernels: Kernels, gradients: Kernels, k: int
    ) -> Kernels:
        del draw, time, kernels, gradients, k
        return masks

    rewire = Rewire(_drawn, lambda time: jnp.asarray(False), unchanged)
    return _sparse(optimizer, rewire, keep, key, living_only)


def set_(
    optimizer: optax.GradientTransformation,
    *,
    keep: Keep,
    key: Key[Array, ""],
    every: int,
    begin: int = 0,
    end: int | None = None,
    drop: float = 0.5,
    living_only: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer that now and then drops the smallest living weights and grows as many
    others, drawn at random (sparse evolutionary training).

    Of n living weights of a kernel, the n - ⌊n f⌋ largest stay, f = drop · (1 + cos π p)/2, and
    ⌊n f⌋ of the others grow, at 0; those just dropped may be drawn again, and then keep weight and
    moments. The count never changes.

    Args:
        optimizer: any optax optimizer.
        keep: number of weights that live, see ``Keep``.
        key: key of all that is drawn.
        every: updates from one change of the masks to the next.
        begin: number of the first update, counted from 0, that changes them.
        end: number of the last; f falls to 0 there. None: f does not fall.
        drop: fraction of the living weights that is dropped at ``begin``.
        living_only: see ``static``.

    Raises:
        ValueError: see ``static``; and if ``every`` is below 1, ``drop`` outside [0, 1], or
            ``end`` not after ``begin``.

    Reference: Mocanu et al. 2018 (arXiv 1707.04780), with the schedule of RigL, as Graesser et al.
    2022 (arXiv 2206.10369), section 3.
    """
    change = _drop_and_grow(_at_random, drop=drop, begin=begin, end=end)
    rewire = Rewire(_drawn, _due(every, begin, end), change)
    return _sparse(optimizer, rewire, keep, key, living_only)


def rigl(
    optimizer: optax.GradientTransformation,
    *,
    keep: Keep,
    key: Key[Array, ""],
    every: int,
    begin: int = 0,
    end: int | None = None,
    drop: float = 0.5,
    living_only: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer as ``set_``, that grows the weights of the largest gradients (RigL).

    Args:
        optimizer: any optax optimizer.
        keep: number of weights that live, see ``Keep``.
        key: key of the first masks.
        every: see ``set_``, as the next three.
        begin: number of the first update that changes masks.
        end: number of the last.
        drop: fraction dropped at ``begin``.
        living_only: see ``static``; but all weights are perturbed for an update that changes masks,
            whose gradient says what grows.

    Raises:
        ValueError: see ``set_``.

    Reference: Evci et al. 2020 (arXiv 1911.11134), section 3, algorithm 1; the gradient of the same
    batch moves what has grown, as in the code of Graesser et al. 2022.
    """
    change = _drop_and_grow(_largest_gradients, drop=drop, begin=begin, end=end)
    rewire = Rewire(_drawn, _due(every, begin, end), change, by_gradient=True)
    return _sparse(optimizer, rewire, keep, key, living_only)


def magnitude_pruning(
    optimizer: optax.GradientTransformation,
    *,
    keep: Keep,
    begin: int,
    end: int,
    every: int,
    living_only: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer that begins dense and drops the smallest weights, for good, up to ``end``.

    d - round((d - k)(1 - (1 - p)³)) of the d weights of a kernel live after the update at which a
    share p of the time from ``begin`` to ``end`` has passed.

    Args:
        optimizer: any optax optimizer.
        keep: number of weights that live in the end, see ``Keep``.
        begin: number of the update, counted from 0, from which the share dropped grows from 0.
        end: number of the last, which always drops.
        every: updates from one of them to the next.
        living_only: see ``static``.

    Raises:
        ValueError: see ``set_``.

    Reference: Zhu and Gupta 2018 (arXiv 1710.01878), section 3.
    """
    regular = _due(every, begin, end)

    def change(
        draw: Draw, time: Time, masks: Kernels, kernels: Kernels, gradients: Kernels, k: int
    ) -> Kernels:
        del draw, gradients
        size = sum(kernel.size for kernel in kernels.values())
        number = num_pruned(size, k, cubic(time, begin=begin, end=end))
        return top_k_mask(_living_magnitudes(masks, kernels), number)

    rewire = Rewire(
        first=lambda draw, kernels, k: _all_alive(kernels),
        due=lambda time: regular(time) | (jnp.asarray(time) == end),
        change=change,
    )
    return _sparse(optimizer, rewire, keep, None, living_only)


def stacked(
    make: Callable[[Key[Array, ""]], optax.GradientTransformation], keys: Key[Array, " networks"]
) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer of several networks of one shape, whose params have a leading axis: each
    has one of its own, so that their weights do not compete.

    Args:
        make: key -> optimizer of one network.
        keys: key of each network.
    """

    def init(params: Params) -> Any:
        return jax.vmap(lambda key, p: make(key).init(p))(keys, params)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        def one(of_one: tuple[Any, ...]) -> tuple[Params, Any]:
            key, g, s, p = of_one
            return optax.with_extra_args_support(make(key)).update(g, s, p, **extra)

        # not vmap, which would change masks in every update, to throw the result away
        return jax.lax.map(one, (keys, updates, state, params))

    return optax.GradientTransformationExtraArgs(init, update)


# ---------------------------------------------------------------------------- what they share


def _sparse(
    optimizer: optax.GradientTransformation,
    rewire: Rewire,
    keep: Keep,
    key: Key[Array, ""] | None,
    living_only: bool,
) -> optax.GradientTransformationExtraArgs:
    inner = optax.with_extra_args_support(optimizer)

    def support(mask: Params, time: Time) -> Params | None:
        if not living_only:
            return None
        if not rewire.by_gradient:
            return jax.tree.map(jnp.copy, mask)  # a buffer of its own, so that both may be donated
        return jax.tree.map(lambda alive: alive | rewire.due(time), mask)

    def drawing(data: UInt32[Array, " words"] | None, time: Time, group: int) -> Draw:
        if data is None or key is None:
            return lambda kernels: kernels  # nothing is drawn
        own = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
        return partial(_uniform, jax.random.fold_in(jax.random.fold_in(own, time), group))

    def init(params: Params) -> Any:
        # a buffer of its own, so that the state may be donated
        data = None if key is None else jnp.copy(jax.random.key_data(key))
        time, named = jnp.zeros((), jnp.int32), {}
        for group, (kernels, k) in enumerate(_groups(params, keep)):
            named |= rewire.first(drawing(data, 0, group), kernels, k)
        mask = _with_kernels(_all_alive(params), named)
        sparse = SparseState(time, mask, support(mask, time))
        return RewiringState(sparse, inner.init(params), data)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("a sparse optimizer needs params: update(updates, state, params)")
        time, mask = state.sparse.updates, state.sparse.mask
        live = zero_dead(params, mask)  # dead weights may hold what they were drawn with, once

        def changed() -> tuple[Params, Any]:
            alive, gradients = _by_path(mask), _by_path(updates)
            named = {}
            for group, (kernels, k) in enumerate(_groups(live, keep)):
                masks, slopes = ({n: tree[n] for n in kernels} for tree in (alive, gradients))
                draw = drawing(state.key, time + 1, group)
                named |= rewire.change(draw, time, masks, kernels, slopes, k)
            new = _with_kernels(mask, named)
            stays = jax.tree.map(jnp.logical_and, mask, new)
            return new, with_fresh_moments(state.inner, inner.init(params), stays)

        mask, moments = jax.lax.cond(rewire.due(time), changed, lambda: (mask, state.inner))
        given = jax.tree.map(lambda g, alive: jnp.where(alive, g, 0), updates, mask)
        moved, moments = inner.update(given, moments, live, **extra)
        moved = jax.tree.map(lambda u, now, was: u + (now - was), moved, live, params)
        moved = jax.tree.map(step_or_zero, moved, params, mask)
        sparse = SparseState(time + 1, mask, support(mask, time + 1))
        return moved, RewiringState(sparse, moments, state.key)

    return optax.GradientTransformationExtraArgs(init, update)


def _drawn(draw: Draw, kernels: Kernels, k: int) -> Kernels:
    """First masks: k of the weights of a group, drawn at random."""
    return top_k_mask(draw(kernels), k)


def _drop_and_grow(
    scores: Callable[[Draw, Kernels], Kernels],
    *,
    drop: float,
    begin: int,
    end: int | None,
) -> Callable[..., Kernels]:
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must be in [0, 1], got {drop}")

    def change(
        draw: Draw, time: Time, masks: Kernels, kernels: Kernels, gradients: Kernels, k: int
    ) -> Kernels:
        number = num_dropped(k, drop * cosine(time, begin=begin, end=end))
        kept = top_k_mask(_living_magnitudes(masks, kernels), k - number)
        score = scores(draw, gradients)
        free = jax.tree.map(lambda is_kept, s: jnp.where(is_kept, 0, _positive(s)), kept, score)
        return jax.tree.map(jnp.logical_or, kept, top_k_mask(free, number))

    return change


def _at_random(draw: Draw, gradients: Kernels) -> Kernels:
    return draw(gradients)


def _largest_gradients(draw: Draw, gradients: Kernels) -> Kernels:
    del draw
    return jax.tree.map(jnp.abs, gradients)


def _living_magnitudes(masks: Kernels, kernels: Kernels) -> Kernels:
    """|w| of the living, above 0 even at 0, so that no dead weight is taken for one of them."""
    return jax.tree.map(lambda alive, w: jnp.where(alive, _positive(jnp.abs(w)), 0), masks, kernels)


def _positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # or those below tiny would be equal
    return jnp.maximum(wide, jnp.finfo(wide.dtype).tiny)


def _uniform(key: Key[Array, ""], kernels: Kernels) -> Kernels:
    return {
        name: jax.random.uniform(jax.random.fold_in(key, i), kernel.shape, jnp.float32)
        for i, (name, kernel) in enumerate(sorted(kernels.items()))
    }


def _due(every: int, begin: int, end: int | None) -> Callable[[Time], Bool[Array, ""]]:
    checked_count("every", every)
    if begin < 0:
        raise ValueError(f"begin must be at least 0, got {begin}")
    if end is not None and end <= begin:
        raise ValueError(f"end must be more than begin, {begin}, got {end}")
    return lambda time: is_due(time, every=every, begin=begin, end=end)


def _groups(params: Params, keep: Keep) -> list[tuple[Kernels, int]]:
    """Kernels whose weights compete, and how many of them live."""
    shapes, leaves = kernel_shapes(params), _by_path(params)
    if not isinstance(keep, Mapping):
        return [({name: leaves[name] for name in shapes}, _checked("keep", keep, shapes))]
    groups = []
    for name, number in keep.items():
        if name not in shapes:
            raise ValueError(f"keep: there is no kernel {name!r}, but {', '.join(shapes)}")
        number = _checked(f"keep[{name!r}]", number, {name: shapes[name]})
        groups.append(({name: leaves[name]}, number))
    return groups


def _checked(which: str, number: Any, shapes: Shapes) -> int:
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    number = checked_count(which, number)
    if number > total:
        raise ValueError(f"{which} must be at most the {total} weights there are, got {number}")
    return number


def _by_path(tree: Params) -> dict[str, Array]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def _with_kernels(tree: Params, kernels: Kernels) -> PyTree[Array]:
    """The tree with these leaves in place of its own."""

    def leaf(path: Any, own: Array) -> Array:
        return kernels.get(jax.tree_util.keystr(path, simple=True, separator="/"), own)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _all_alive(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), params)
