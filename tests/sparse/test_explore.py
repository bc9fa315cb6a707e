"""Supports: what may move, what never does, and when another one is drawn."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax.es.nes import nesht
from nesht_jax.es.shaping import identity
from nesht_jax.sparse.hard_thresholding import hard_thresholding, masked_moments, sparsify
from nesht_jax.sparse.projection import Projection
from nesht_jax.sparse.top_k import top_k_mask
from nesht_jax.sparse.units import Units, make_units
from nesht_jax.types import mask_of, support_of

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(3)
NORMAL = np.random.default_rng(1).normal
PARAMS = {
    "layer0": {"kernel": jnp.asarray(NORMAL(size=(12, 3)), jnp.float32), "bias": jnp.ones(3)},
    "layer1": {"kernel": jnp.asarray(NORMAL(size=(12, 3)), jnp.float32)},
    "phantom": jnp.asarray(NORMAL(size=20), jnp.float32),
}
KERNELS = ("layer0", "layer1")


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def kernels(tree):
    return np.stack([tree[layer]["kernel"] for layer in KERNELS])


def shapes_of(tree):
    """Structure, shapes and dtypes."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(leaf.shape, leaf.dtype) for leaf in leaves]


def all_but_phantoms(value):
    alive = jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), PARAMS)
    return {**alive, "phantom": jnp.zeros(20, bool)}


# ------------------------------------------------------------------------------------ the draw


@functools.partial(jax.jit, static_argnames="unit")
def supports_of_many(mask, explore, unit):
    units, keys = Units(lambda path: "all", unit), jax.random.split(KEY, 2000)
    return jax.vmap(lambda key: units.support(mask, key, explore))(keys)


@pytest.mark.parametrize("unit", ["weight", "row"])
@pytest.mark.parametrize("explore", [0.05, 0.3])
def test_a_support_is_the_living_and_a_share_of_the_dead(explore, unit):
    mask = all_but_phantoms(False)
    mask["layer0"]["kernel"] = mask["layer0"]["kernel"].at[2].set(True)
    support = jax.tree.map(np.asarray, supports_of_many(mask, explore, unit))
    assert support["layer0"]["kernel"][:, 2].all() and support["phantom"].all()
    assert support["layer0"]["bias"].all() or unit == "weight"
    tried = kernels(support)
    if unit == "row":
        assert (tried.all(-1) == tried.any(-1)).all()
        tried = tried[..., 0]
    tried = np.moveaxis(tried, 1, 0).reshape(2000, -1)
    dead = tried[:, ~kernels(mask)[..., : 3 if unit == "weight" else 1].ravel()]
    standard_error = np.sqrt(explore * (1 - explore) / 2000)
    assert (abs(dead.mean(0) - explore) < 4.5 * standard_error).all()
    numbers = dead.sum(1)
    variance, units = explore * (1 - explore), dead.shape[1]
    assert abs(numbers.var() / (units * variance) - 1) < STANDARD_ERRORS * np.sqrt(2 / 2000)


def test_units_of_two_leaves_are_drawn_apart():
    support = supports_of_many(all_but_phantoms(False), 0.5, "weight")
    same = np.mean(support["layer0"]["kernel"] == support["layer1"]["kernel"])
    assert abs(same - 0.5) < STANDARD_ERRORS * np.sqrt(0.25 / (2000 * 36))


@pytest.mark.parametrize("unit", ["weight", "row"])
@pytest.mark.parametrize("explore, all_in", [(0.0, False), (1.0, True)])
def test_of_the_dead_none_or_all_may_be_tried(explore, all_in, unit):
    support = supports_of_many(all_but_phantoms(False), explore, unit)
    assert (kernels(support) == all_in).all() and support["phantom"].all()


def test_leaves_outside_every_group_may_move():
    support = make_units(exempt_bias=True).support(all_but_phantoms(False), KEY, 0.0)
    assert support["layer0"]["bias"].all() and not kernels(support).any()


# ----------------------------------------------------------------------------- between decisions


def path_of(optimizer, *, updates=9, params=PARAMS):
    """Params and state after each of some updates by dense gradients, before them first."""

    def update(carry, seed):
        params, state = carry
        keys = dict(zip(params, jax.random.split(jax.random.fold_in(KEY, seed), 3), strict=True))
        gradient = {
            name: jax.tree.map(lambda leaf, k=keys[name]: jax.random.normal(k, leaf.shape), part)
            for name, part in params.items()
        }
        told = {"key": jax.random.fold_in(KEY, 100 + seed)}
        steps, state = optimizer.update(gradient, state, params, **told)
        carry = optax.apply_updates(params, steps), state
        return carry, carry

    start = params, optimizer.init(params)
    _, later = jax.jit(lambda s: jax.lax.scan(update, s, jnp.arange(updates)))(start)
    whole = jax.tree.map(lambda a, b: np.concatenate([a[None], b]), start, later)
    return [row(whole, i) for i in range(updates + 1)]


def exploring(unit="row", **options):
    return sparsify(Projection(Units(lambda path: "all", unit), rows_kept), **options)


def rows_kept(group):
    """Rows whose first weight is positive."""
    return [jnp.broadcast_to(leaf[:, :1] > 0, leaf.shape) for leaf in group.after]


MOMENTUM = {"adam": optax.adam(0.1), "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True)}


@functools.cache
def exploration(name, wrap=None):
    optimizer = optax.chain(MOMENTUM[name], exploring(every=3, begin=2, explore=0.4))
    return path_of((wrap or optax.with_extra_args_support)(optimizer), updates=12)


DECISIONS = (3, 6, 9, 12)


@pytest.mark.parametrize("name", MOMENTUM)
def test_nothing_outside_the_support_moves(name):
    path = exploration(name)
    for update in range(DECISIONS[0], 13):
        params, state = path[update]
        support, before = state[-1].support, path[update - 1][0]
        last = max(d for d in DECISIONS if d <= update)
        equal(support, path[last][1][-1].support)
        outside = ~kernels(support)
        assert outside.any() and (kernels(params)[outside] == 0).all()
        if update not in DECISIONS:
            moved = jax.tree.map(np.not_equal, params, before)
            equal(moved, support)


@pytest.mark.parametrize("name", MOMENTUM)
def test_a_decision_zeroes_the_dead_and_the_phantoms(name):
    path = exploration(name)
    for update in DECISIONS:
        params, state = path[update]
        mask = state[-1].mask
        np.testing.assert_array_equal(kernels(params) != 0, kernels(mask))
        assert not params["phantom"].any() and not mask["phantom"].any()
        assert params["layer0"]["bias"].all()
    assert all(path[update][0]["phantom"].all() for update in range(12) if update not in DECISIONS)


@pytest.mark.parametrize("name", MOMENTUM)
def test_a_support_holds_the_living_and_some_others_and_is_drawn_anew(name):
    path = exploration(name)
    tried = []
    for update in DECISIONS:
        state = path[update][1][-1]
        support, alive = kernels(state.support), kernels(state.mask)
        assert support[alive].all() and state.support["phantom"].all()
        assert (support.all(-1) == support.any(-1)).all()
        tried.append((support & ~alive).any(-1))
    assert all(t.any() for t in tried) and (tried[0] != tried[1]).any()


@pytest.mark.parametrize("name", MOMENTUM)
def test_before_the_first_decision_all_moves(name):
    path, plain = exploration(name), path_of(MOMENTUM[name], updates=2)
    for update in range(3):
        params, state = path[update]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, plain[update][0]
        )
        assert all(leaf.all() for leaf in jax.tree.leaves((state[-1].mask, state[-1].support)))


def test_between_decisions_the_mask_is_the_support():
    path = exploration("adam")
    for update in (4, 5, 7, 8):
        equal(path[update][1][-1].mask, path[update][1][-1].support)


def test_moments_of_what_may_not_move_are_forgotten():
    path, plain = exploration("adam", masked_moments), exploration("adam")
    for update in range(3, 13):
        (adam, *_), sparse = path[update][1]
        for moment in (adam.mu, adam.nu):
            equal(jax.tree.map(lambda leaf: leaf != 0, moment), sparse.mask)
    assert (kernels(plain[5][1][0][0].mu) != 0).all()


# ------------------------------------------------------------------------------------- when


def decided_at(updates, **options):
    path = path_of(exploring(**options), updates=updates)
    return [i for i in range(1, updates + 1) if not kernels(path[i][0]).all()]


@pytest.mark.parametrize(
    "options, updates",
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"begin": 3}, [4, 5, 6, 7]),
        ({"every": 3}, [1, 4, 7]),
        ({"every": 3, "begin": 1}, [2, 5]),
        ({"every": 2, "begin": 5}, [6]),
        ({"begin": 7}, []),
        ({"end": 3}, [1, 2, 3, 4, 5, 6, 7]),  # what died last stays dead
    ],
)
def test_decisions_begin_after_begin_and_come_every_so_many(options, updates):
    assert decided_at(7, **options) == updates


def test_begin_may_not_be_negative():
    with pytest.raises(ValueError, match="begin must be"):
        hard_thresholding(keep=1, begin=-1)


@pytest.mark.parametrize("end", [4, 3])
def test_the_end_comes_after_the_beginning(end):
    with pytest.raises(ValueError, match=f"end must be more than begin, 4, got {end}"):
        hard_thresholding(keep=1, begin=4, end=end)


@pytest.mark.slow
@pytest.mark.parametrize("explore", [None, 0.4])
@pytest.mark.parametrize("end, last", [(3, 2), (4, 2), (5, 5), (7, 5)])
def test_after_the_last_decision_only_what_lives_moves(end, last, explore):
    optimizer = optax.chain(optax.adam(0.1), exploring(every=3, begin=1, end=end, explore=explore))
    path = path_of(optimizer, updates=10)
    alive = kernels(path[last][0]) != 0
    assert alive.any() and not alive.all()
    support = path[last][1][-1].support
    np.testing.assert_array_equal(kernels(support), alive)
    assert support["layer0"]["bias"].all()
    for (params, state), (before, _) in zip(path[last + 1 :], path[last:], strict=False):
        equal(state[-1].support, support)
        np.testing.assert_array_equal(kernels(params) != 0, alive)
        assert (kernels(params) != kernels(before))[alive].all()
        np.testing.assert_array_equal(kernels(mask_of(state, params)), alive)


# ---------------------------------------------------------------------------------- all or some


def test_where_all_is_tried_there_is_no_support_and_no_key_is_needed():
    transformation = hard_thresholding(keep=5, explore=1)
    state = transformation.init(PARAMS)
    updates, after = transformation.update(PARAMS, state, PARAMS)
    assert state.support is None and after.support is None
    assert support_of(after, PARAMS) is None
    keyed, _ = transformation.update(PARAMS, state, PARAMS, key=KEY)
    equal(updates, keyed)


WEIGHTS = {name: PARAMS[name] for name in KERNELS}


@pytest.mark.bits
@pytest.mark.slow
def test_where_all_is_tried_the_bits_are_those_of_the_operator():
    optimizer = optax.chain(optax.adam(0.1), hard_thresholding(keep=30, every=2, explore=1.0))
    plain, state = optax.adam(0.1), optax.adam(0.1).init(WEIGHTS)
    params, found = WEIGHTS, (WEIGHTS, optimizer.init(WEIGHTS))
    for i in range(4):
        gradient = jax.tree.map(lambda leaf, i=i: jnp.sin(leaf * (5 + i)), WEIGHTS)
        steps, state = plain.update(gradient, state, params)
        params = optax.apply_updates(params, steps)
        if i % 2 == 0:
            alive = top_k_mask(params, 30)
            params = jax.tree.map(lambda p, a: jnp.where(a, p, 0), params, alive)
        steps, sparse = optimizer.update(gradient, found[1], found[0])
        found = optax.apply_updates(found[0], steps), sparse
        equal(found[0], params)


def test_a_traced_share_of_one_moves_all():
    options = {"every": 2, "begin": 1}
    all_tried = path_of(exploring(**options), updates=5)
    path = path_of(exploring(explore=jnp.float32(1), **options), updates=5)
    for (params, state), (expected, _) in zip(path, all_tried, strict=True):
        equal(params, expected)
        assert all(leaf.all() for leaf in jax.tree.leaves(state.support))


def test_without_a_key_a_share_is_refused():
    transformation = hard_thresholding(keep=5, explore=0.5)
    with pytest.raises(ValueError, match="needs? key="):
        transformation.update(PARAMS, transformation.init(PARAMS), PARAMS)


@pytest.mark.parametrize("explore", [-0.1, 1.5, 2, float("nan"), np.float32(1.5)])
def test_a_share_beyond_one_is_refused(explore):
    with pytest.raises(ValueError, match=r"explore must be in \[0, 1\], got"):
        hard_thresholding(keep=5, explore=explore)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("explore", [1.0, 0.5])
def test_no_dtype_is_promoted_and_the_state_keeps_its_shapes(explore, x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        transformation = hard_thresholding(unit="row", explore=explore, keep=6, every=2)
        state = jax.eval_shape(transformation.init, PARAMS)
        _, after = jax.eval_shape(
            lambda s: transformation.update(PARAMS, s, PARAMS, key=KEY), state
        )
        assert shapes_of(after) == shapes_of(state)


# --------------------------------------------------------------------------------- in a search

MEMBERS = 8


class Told(NamedTuple):
    gradient: dict


def remembering():
    """Keeps the gradient that it was told."""
    return optax.GradientTransformation(
        lambda params: Told(jax.tree.map(jnp.zeros_like, params)),
        lambda updates, state, params=None: (updates, Told(updates)),
    )


@functools.cache
def search(mirrored):
    """An algorithm, and its states after each of seven generations."""
    optimizer = optax.chain(
        remembering(), optax.adam(0.1), exploring(every=3, begin=1, explore=0.3)
    )
    algorithm = nesht(
        num_members=MEMBERS, sigma=0.5, optimizer=optimizer, mirrored=mirrored, shaping=identity
    )

    def generation(state, fitness):
        after, info = algorithm.tell(state, fitness)
        return after, (after, info, algorithm.ask(state))

    fitness = jax.random.normal(KEY, (7, MEMBERS))
    start = algorithm.init(KEY, PARAMS)
    _, (states, infos, members) = jax.jit(lambda s: jax.lax.scan(generation, s, fitness))(start)
    numbers = [(s.params, s.optimizer) for s in [start, *(row(states, i) for i in range(7))]]
    return numbers, infos, members, fitness


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [True, False])
def test_members_differ_from_the_center_exactly_on_the_support(mirrored):
    states, _, members, _ = search(mirrored)
    for i in range(7):
        params, optimizer = states[i]
        moved = jax.tree.map(lambda m, p: m != p[None], row(members, i), params)
        expected = jax.tree.map(
            lambda s: jnp.broadcast_to(s, (MEMBERS, *s.shape)), support_of(optimizer, params)
        )
        equal(moved, expected)
    assert not kernels(support_of(states[2][1], PARAMS)).all()


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_generation_is_nes_on_the_support(mirrored):
    """The formula from the members' perturbations: zero outside, and else that of all weights."""
    states, infos, members, fitness = search(mirrored)
    for i in range(7):
        (params, optimizer), gradient = states[i], states[i + 1][1][0].gradient
        support = support_of(optimizer, params)
        epsilon = jax.tree.map(
            lambda m, p: (np.float64(m) - np.float64(p)) / 0.5, row(members, i), params
        )
        contract = functools.partial(
            np.tensordot, -np.float64(fitness[i]) / (MEMBERS * 0.5), axes=1
        )
        expected = jax.tree.map(contract, epsilon)
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, atol=1e-5), gradient, expected)
        equal(jax.tree.map(lambda g: np.asarray(g) != 0, gradient), support)
        np.testing.assert_allclose(infos.gradient_norm[i], optax.tree.norm(expected), rtol=1e-4)
    assert not infos.skipped.any()


def test_generations_draw_their_own_supports():
    states, *_ = search(True)
    drawn = [kernels(optimizer[-1].support) for _, optimizer in states]
    decided = [drawn[i] for i in (2, 5)]
    assert (decided[0] != decided[1]).any()
    equal(drawn[2], drawn[4])


def test_sparsity_is_that_of_the_last_decision_or_the_support():
    states, infos, *_ = search(True)
    for i, (_, optimizer) in enumerate(states[1:]):
        mask = {name: optimizer[-1].mask[name] for name in KERNELS}
        dead = sum(int((~leaf).sum()) for leaf in jax.tree.leaves(mask))
        np.testing.assert_allclose(infos.sparsity[i], dead / 75, rtol=1e-6)


def test_a_support_takes_only_full_rank():
    for explore, refused in [(0.5, True), (1.0, False)]:
        optimizer = optax.chain(optax.sgd(0.1), exploring(explore=explore))
        algorithm = nesht(num_members=MEMBERS, sigma=0.5, optimizer=optimizer, rank=1)
        if refused:
            with pytest.raises(ValueError, match="rank must be None where not all weights"):
                algorithm.init(KEY, PARAMS)
        else:
            algorithm.init(KEY, PARAMS)
