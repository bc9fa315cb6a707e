"""Sparse optimizers: masks against a NumPy rewrite of the published rules, moments, exact zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from nesht_jax.es.nes import nesht
from nesht_jax.run.optimizer import optimizers
from nesht_jax.sparse.rewiring import magnitude_pruning, rigl, set_, stacked, static
from nesht_jax.sparse.schedule import num_pruned
from nesht_jax.types import mask_of, sparse_states, support_of

KEY = jax.random.key(7)
PARAMS = {
    "layer0": {
        "kernel": jnp.asarray(np.random.RandomState(0).randn(5, 4), jnp.float32),
        "bias": jnp.asarray([1.0, -2.0, 0.5, 0.0], jnp.float32),
    },
    "layer1": {
        "kernel": jnp.asarray(np.random.RandomState(1).randn(4, 3), jnp.float32),
        "bias": jnp.zeros(3, jnp.float32),
    },
}
KEEP = {"layer0/kernel": 8, "layer1/kernel": 5}
MAKERS = {
    "static": lambda inner, **more: static(inner, keep=KEEP, key=KEY, **more),
    "set": lambda inner, **more: set_(inner, keep=KEEP, key=KEY, every=3, end=12, **more),
    "rigl": lambda inner, **more: rigl(inner, keep=KEEP, key=KEY, every=3, end=12, **more),
    "pruning": lambda inner, **more: magnitude_pruning(
        inner, keep=KEEP, begin=2, end=11, every=3, **more
    ),
}
METHODS = sorted(MAKERS)


def gradients(seed):
    def drawn(leaf):
        return jnp.asarray(np.random.RandomState(seed).randn(*leaf.shape), jnp.float32)

    return jax.tree.map(drawn, PARAMS)


def kernels(tree):
    return {f"{layer}/kernel": np.asarray(tree[layer]["kernel"]) for layer in tree}


def trained(optimizer, steps, *, params=PARAMS, first=0, state=None):
    """Params and states after each of so many updates."""
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    for step in range(first, first + steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
        yield params, state


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def masks(state, params=PARAMS):
    return kernels(mask_of(state, params))


# --------------------------------------------------------------------------- the published rules


def rewired(mask, weights, growth, fraction):
    """``mask_updaters.py`` of rigl, with full stable sorts."""
    mask, weights, growth = (np.ravel(x) for x in (mask, weights, growth))
    alive = int(mask.sum())
    dropped = int(np.trunc(np.float32(alive) * np.float32(fraction)))
    # among the living only: those of value 0 come before the dead, by lowest index
    by_size = sorted(np.flatnonzero(mask), key=lambda i: (-rank(weights[i]), i))
    kept = set(by_size[: alive - dropped])
    others = [i for i in range(mask.size) if i not in kept]
    grown = sorted(others, key=lambda i: (-rank(growth[i]), i))[:dropped]
    new = np.zeros(mask.size, bool)
    new[list(kept | set(grown))] = True
    return new


def rank(x):
    return np.inf if np.isnan(x) else max(abs(float(x)), float(np.finfo(np.float32).tiny))


NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, float("nan"), 1e-30]), st.floats(-2, 2, width=32)
)


CASES = [(1, 1, 1, 1.0), (2, 3, 4, 0.5), (5, 4, 8, 0.3), (6, 6, 30, 1.0), (6, 6, 5, 0.0)]


@functools.cache
def rigl_update(keep, drop):
    optimizer = rigl(optax.sgd(0.1), keep=keep, key=KEY, every=1, drop=drop)
    return optimizer.init, jax.jit(optimizer.update)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(CASES))
def test_rigl_changes_masks_as_the_published_code(data, case):
    rows, columns, keep, drop = case
    size = rows * columns
    weights, slopes = (
        np.array(data.draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32)
        for _ in range(2)
    )
    alive = np.zeros(size, bool)
    alive[data.draw(st.permutations(range(size)))[:keep]] = True
    init, update = rigl_update(keep, drop)
    params = {"kernel": jnp.where(alive, weights, 0).reshape(rows, columns)}
    state = init(params)
    mask = {"kernel": jnp.asarray(alive.reshape(rows, columns))}
    state = state._replace(sparse=state.sparse._replace(mask=mask))
    _, after = update({"kernel": jnp.asarray(slopes.reshape(rows, columns))}, state, params)
    expected = rewired(alive, params["kernel"], slopes, drop)
    np.testing.assert_array_equal(np.ravel(after.sparse.mask["kernel"]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_counts_never_change_and_a_change_moves_at_most_what_was_dropped(method):
    optimizer = MAKERS[method](optax.adam(0.1))
    before, changes = masks(optimizer.init(PARAMS)), []
    for step, (params, state) in enumerate(trained(optimizer, 16)):
        after = masks(state)
        for name, k in KEEP.items():
            assert after[name].sum() == k
            assert np.count_nonzero(kernels(params)[name][~after[name]]) == 0
            dropped = int(k * 0.5 * (1 + np.cos(np.pi * min(step, 12) / 12)) / 2)
            moved = (before[name] & ~after[name]).sum()
            assert moved <= (dropped if step % 3 == 0 else 0)
        changes.append(any((before[n] != after[n]).any() for n in KEEP))
        before = after
    assert any(changes[:10]) and not any(changes[10:])


@pytest.mark.slow
def test_set_grows_at_random_whatever_the_gradients_are():
    """Of the weights that do not stay each grows with equal probability."""
    params = {"kernel": jnp.arange(1.0, 11.0, dtype=jnp.float32)[:, None]}
    slopes = {"kernel": jnp.linspace(0.0, 100.0, 10, dtype=jnp.float32)[:, None]}

    def grown(key):
        optimizer = set_(optax.sgd(0.0), keep=4, key=key, every=1, drop=0.5)
        state = optimizer.init(params)
        _, after = optimizer.update(slopes, state, params)
        before = state.sparse.mask["kernel"][:, 0]
        kept = before & (jnp.cumsum(before[::-1])[::-1] <= 2)  # the two largest that lived
        return kept, after.sparse.mask["kernel"][:, 0]

    kept, after = jax.jit(jax.vmap(grown))(jax.random.split(KEY, 4000))
    assert bool((after >= kept).all())
    new, free = np.asarray(after & ~kept).sum(0), np.asarray(~kept).sum(0)
    np.testing.assert_allclose(new / free, 2 / 8, atol=0.035)


def test_pruning_begins_dense_follows_the_cubic_and_never_takes_back():
    optimizer = MAKERS["pruning"](optax.adam(0.1))
    counts, before = [], None
    for step, (params, state) in enumerate(trained(optimizer, 14)):
        alive = masks(state)["layer0/kernel"]
        counts.append(int(alive.sum()))
        assert before is None or not (alive & ~before).any()
        if counts[-1] < 20:
            assert np.count_nonzero(params["layer0"]["kernel"]) == counts[-1]
        before, _ = alive, step
    # changes at 2, 5, 8 and 11, where p is 0, 1/3, 2/3 and 1
    expected = [20 - round(12 * (1 - (1 - p) ** 3)) for p in (0, 1 / 3, 2 / 3, 1)]
    assert counts == [20] * 5 + [expected[1]] * 3 + [expected[2]] * 3 + [8] * 3


@pytest.mark.parametrize("size", [20_000_003, 2**24 + 3])
def test_pruning_ends_at_k_of_any_number_of_weights(size):
    """Float32 counts no further than 2^24."""
    assert num_pruned(size, 2, 1.0) == 2 and num_pruned(size, size - 1, 0.0) == size
    assert 2 <= num_pruned(size, 2, jnp.nextafter(jnp.float32(1), jnp.float32(0))) <= size


def test_pruning_drops_the_smallest_of_the_weights_before_the_step():
    optimizer = magnitude_pruning(optax.sgd(0.1), keep=6, begin=0, end=1, every=1)
    *_, (params, state) = trained(optimizer, 2)
    first = next(trained(optimizer, 1))[0]
    flat = np.concatenate([np.ravel(x) for x in kernels(first).values()])
    alive = np.concatenate([np.ravel(x) for x in masks(state).values()])
    assert set(np.flatnonzero(alive)) == set(np.argsort(-abs(flat))[:6])


def test_the_smallest_are_told_apart_in_half_precision():
    params = {"k": jnp.array([[1e-5, 5e-5], [2e-5, 4e-5]], jnp.float16)}
    optimizer = magnitude_pruning(optax.sgd(0.0), keep=2, begin=0, end=1, every=1)
    state, still = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        _, state = optimizer.update(still, state, params)
    assert state.sparse.mask["k"].tolist() == [[False, True], [False, True]]


def test_one_number_is_of_all_kernels_together_and_biases_stay_dense():
    optimizer = rigl(optax.sgd(0.1), keep=9, key=KEY, every=2)
    for params, state in trained(optimizer, 5):
        alive = masks(state)
        assert sum(mask.sum() for mask in alive.values()) == 9
        assert bool(mask_of(state, params)["layer0"]["bias"].all())
    assert np.count_nonzero(params["layer0"]["bias"]) == 4


def test_a_kernel_that_is_not_named_stays_dense():
    optimizer = static(optax.sgd(0.1), keep={"layer1/kernel": 2}, key=KEY)
    (params, state), *_ = trained(optimizer, 1)
    assert masks(state)["layer0/kernel"].all()
    assert np.count_nonzero(params["layer1"]["kernel"]) == 2


# ------------------------------------------------------------------------------ equivalences


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inner", ["adam", "sgd", "adamw"])
def test_with_all_weights_alive_it_is_the_inner_optimizer_to_the_bit(method, inner):
    make = {"adam": optax.adam, "sgd": optax.sgd, "adamw": optax.adamw}[inner]
    whole = {"keep": 20 + 12}
    optimizer = {
        "static": lambda o: static(o, key=KEY, **whole),
        "set": lambda o: set_(o, key=KEY, every=2, **whole),
        "rigl": lambda o: rigl(o, key=KEY, every=2, **whole),
        "pruning": lambda o: magnitude_pruning(o, begin=0, end=4, every=2, **whole),
    }[method](make(0.1))
    with jax.disable_jit():  # compiled, one program may round otherwise than the other
        (*_, (params, _)), (*_, (expected, _)) = trained(optimizer, 3), trained(make(0.1), 3)
    equal(params, expected)


@pytest.mark.bits
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_without_dropping_it_is_static_to_the_bit(method):
    optimizer = MAKERS[method](optax.adam(0.1), drop=0.0)
    fixed = MAKERS["static"](optax.adam(0.1))
    for (params, _), (expected, _) in zip(trained(optimizer, 6), trained(fixed, 6), strict=True):
        equal(params, expected)


class Masked(nn.Module):
    """A dense layer that multiplies its kernel by a mask: what static training ought to be."""

    mask: np.ndarray

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.zeros, self.mask.shape)
        return x @ (kernel * self.mask)


def test_static_trains_as_a_network_with_a_masked_product():
    x = jnp.asarray(np.random.RandomState(2).randn(16, 5), jnp.float32)
    y = jnp.asarray(np.random.RandomState(3).randn(16, 4), jnp.float32)
    params = {"kernel": PARAMS["layer0"]["kernel"]}
    optimizer, plain = static(optax.adam(0.01), keep=9, key=KEY), optax.adam(0.01)
    state = optimizer.init(params)
    mask = np.asarray(mask_of(state, params)["kernel"])
    ours = {"kernel": jnp.where(mask, params["kernel"], 0)}
    module, theirs, their_state = Masked(mask), params, plain.init(params)
    own_loss = lambda p: ((x @ p["kernel"] - y) ** 2).mean()  # noqa: E731
    their_loss = lambda p: ((module.apply({"params": p}, x) - y) ** 2).mean()  # noqa: E731
    own_slopes, their_slopes = jax.jit(jax.grad(own_loss)), jax.jit(jax.grad(their_loss))
    update, plain_update = jax.jit(optimizer.update), jax.jit(plain.update)
    for _ in range(100):
        updates, state = update(own_slopes(ours), state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, their_state = plain_update(their_slopes(theirs), their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"] * mask, atol=1e-6)


@pytest.mark.slow
def test_stacked_is_each_network_by_itself():
    keys = jax.random.split(KEY, 2)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), PARAMS)

    def make(key):
        return rigl(optax.adam(0.1), keep=KEEP, key=key, every=2)

    both = stacked(make, keys)
    state, states = both.init(params), [make(key).init(PARAMS) for key in keys]
    update, *alone = (jax.jit(o.update) for o in (both, *map(make, keys)))
    singles = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(2)]
    for step in range(4):
        slopes = [gradients(10 + step), gradients(20 + step)]
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slopes)
        updates, state = update(together, state, params)
        params = optax.apply_updates(params, updates)
        for i in range(2):
            updates, states[i] = alone[i](slopes[i], states[i], singles[i])
            singles[i] = optax.apply_updates(singles[i], updates)
    for i in range(2):
        jax.tree.map(
            lambda both, one, i=i: np.testing.assert_allclose(both[i], one, rtol=1e-6),
            params,
            singles[i],
        )
    first, second = (np.asarray(mask) for mask in mask_of(state, params)["layer0"]["kernel"])
    assert first.sum() == second.sum() == 8 and (first != second).any()


@pytest.mark.bits
@pytest.mark.parametrize("method", METHODS)
def test_jit_and_a_cut_in_the_middle_change_no_bit(method):
    optimizer = MAKERS[method](optax.adam(0.1))
    *_, (params, state) = trained(optimizer, 8)
    *_, (half, half_state) = trained(optimizer, 4)
    *_, (rest, rest_state) = trained(optimizer, 4, params=half, state=half_state, first=4)
    equal((params, state), (rest, rest_state))


# --------------------------------------------------------------------------------- moments


PLAIN = ["adabelief", "adagrad", "adam", "adamw", "lion", "rmsprop", "yogi"]


@pytest.mark.parametrize("name", PLAIN)
def test_what_grows_has_the_moments_of_a_new_weight(name):
    inner = optimizers()[name](0.01)
    optimizer = rigl(inner, keep=KEEP, key=KEY, every=4, drop=0.5)
    *_, (params, state) = trained(optimizer, 4)
    _, after = jax.jit(optimizer.update)(gradients(4), state, params)  # number 4 changes masks
    old, new = (mask_of(x, params)["layer0"]["kernel"] for x in (state, after))
    assert (new & ~old).any()
    fresh, kept = moments_of(inner.init(params)), moments_of(state.inner)
    # one update of new weights by the same gradient, from the state they should have had
    renewed = [jnp.where(old & new, o, f) for o, f in zip(kept, fresh, strict=True)]
    given = jax.tree.map(
        lambda g, alive: jnp.where(alive, g, 0), gradients(4), mask_of(after, params)
    )
    descend = jax.jit(optax.with_extra_args_support(inner).update)
    _, expected = descend(given, with_moments(state.inner, renewed), params)
    for ours, theirs in zip(moments_of(after.inner), moments_of(expected), strict=True):
        np.testing.assert_allclose(ours[new & ~old], theirs[new & ~old], rtol=1e-5)


def is_moment(path, leaf):
    return jax.tree_util.keystr(path).endswith("['layer0']['kernel']") and leaf.shape == (5, 4)


def moments_of(state):
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    return [leaf for path, leaf in paths if is_moment(path, leaf)]


def with_moments(state, moments):
    waiting = iter(moments)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: next(waiting) if is_moment(path, leaf) else leaf, state
    )


def test_the_first_step_of_what_grows_late_is_three_learning_rates():
    """(1 - b₁)/√(1 - b₂), as Adam counts on: 3.162."""
    params = {"kernel": jnp.asarray([[1.0], [2.0], [0.0]], jnp.float32)}
    optimizer = rigl(optax.adam(1e-3), keep=2, key=KEY, every=1, drop=0.5)
    state = optimizer.init(params)
    mask = {"kernel": jnp.asarray([[True], [True], [False]])}
    adam, *rest = state.inner
    late = (adam._replace(count=jnp.int32(10_000)), *rest)
    state = state._replace(sparse=state.sparse._replace(mask=mask), inner=late)
    slopes = {"kernel": jnp.asarray([[0.0], [0.0], [0.3]], jnp.float32)}
    updates, after = optimizer.update(slopes, state, params)
    assert after.sparse.mask["kernel"].ravel().tolist() == [False, True, True]
    np.testing.assert_allclose(updates["kernel"][2, 0], -3.162e-3, rtol=1e-3)
    assert updates["kernel"][0, 0] == -1.0


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_what_grows_at_the_first_update_grows_from_zero(method):
    """Dead weights hold what they were drawn with until then, which is not theirs to begin with."""
    optimizer = MAKERS[method](optax.sgd(0.0))
    before = optimizer.init(PARAMS).sparse.mask
    ((params, state),) = trained(optimizer, 1)
    for name, kernel in kernels(params).items():
        lived, lives = (kernels(mask)[name] for mask in (before, state.sparse.mask))
        assert (lives & ~lived).any() and not kernel[lives & ~lived].any()
        np.testing.assert_array_equal(kernel[lives & lived], kernels(PARAMS)[name][lives & lived])


def test_what_is_dropped_and_grown_at_once_keeps_weight_and_moments():
    params = {"kernel": jnp.asarray([[0.1], [2.0], [0.0]], jnp.float32)}
    optimizer = rigl(optax.sgd(0.1, momentum=0.9), keep=2, key=KEY, every=1, drop=0.5)
    state = optimizer.init(params)
    mask = {"kernel": jnp.asarray([[True], [True], [False]])}
    moments = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), state.inner)
    state = state._replace(sparse=state.sparse._replace(mask=mask), inner=moments)
    slopes = {"kernel": jnp.asarray([[1.0], [0.0], [0.3]], jnp.float32)}
    updates, after = optimizer.update(slopes, state, params)
    assert after.sparse.mask["kernel"].ravel().tolist() == [True, True, False]
    np.testing.assert_allclose(updates["kernel"][0, 0], -0.1 * (1.0 + 0.9 * 0.5), rtol=1e-6)


# ------------------------------------------------------------------------- what grows is right


@pytest.mark.slow
def test_rigl_grows_the_weight_whose_loss_falls_most_by_central_differences():
    x = np.random.RandomState(4).randn(32, 6).astype(np.float32)
    truth = np.array([0, 0, 3, 0, -2, 0], np.float32)[:, None]

    def loss(params):
        return ((x @ params["kernel"] - x @ truth) ** 2).mean()

    params = {"kernel": jnp.zeros((6, 1), jnp.float32)}
    slopes = jax.grad(loss)(params)
    differences = []
    for i in range(6):
        nudge = {"kernel": jnp.zeros((6, 1), jnp.float32).at[i].set(1e-2)}
        less = jax.tree.map(jnp.negative, nudge)
        differences.append(abs(float(loss(nudge) - loss(less)) / 2e-2))
    np.testing.assert_allclose(np.abs(slopes["kernel"][:, 0]), differences, rtol=1e-2, atol=1e-3)
    optimizer = rigl(optax.sgd(0.01), keep=2, key=KEY, every=1, drop=1.0)
    _, state = optimizer.update(slopes, optimizer.init(params), params)
    alive = np.flatnonzero(state.sparse.mask["kernel"][:, 0])
    assert set(alive) == set(np.argsort(differences)[-2:])


TRUTH = np.zeros(40, np.float32)
TRUTH[:5] = [3, -2, 2, 1.5, -1]


@pytest.mark.parametrize("method", ["rigl", "set", "pruning", "static"])
def test_a_student_of_few_weights_finds_those_of_its_teacher_unless_they_are_static(method):
    x = jnp.asarray(np.random.RandomState(5).randn(400, 40), jnp.float32)
    y = x @ TRUTH[:, None]
    optimizer = {
        "static": lambda o: static(o, keep=8, key=KEY),
        "set": lambda o: set_(o, keep=8, key=KEY, every=20, end=3000, drop=0.4),
        "rigl": lambda o: rigl(o, keep=8, key=KEY, every=20, end=300, drop=0.4),
        "pruning": lambda o: magnitude_pruning(o, keep=8, begin=100, end=300, every=20),
    }[method](optax.adam(0.05))
    params = {"kernel": jnp.zeros((40, 1), jnp.float32)}

    @jax.jit
    def step(_, carry):
        params, state = carry
        slopes = jax.grad(lambda p: ((x @ p["kernel"] - y) ** 2).mean())(params)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state

    steps = 4000 if method == "set" else 600
    start = (params, optimizer.init(params))
    params, state = jax.lax.fori_loop(0, steps, step, start)
    alive = set(np.flatnonzero(np.asarray(mask_of(state, params)["kernel"])[:, 0]))
    # a static draw has all five by chance of C(35, 3)/C(40, 8) = 8.5e-5
    assert (alive >= set(range(5))) == (method != "static")


# ---------------------------------------------------------------------- with evolution strategies


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "static"])
def test_rigl_finds_five_of_a_hundred_by_an_estimated_gradient_and_static_does_not(method):
    truth = jnp.zeros((100, 1)).at[:5, 0].set(jnp.asarray([1.0, -2.0, 3.0, -1.0, 2.0]))
    optimizer = {
        "rigl": rigl(optax.adam(0.1), keep=8, key=KEY, every=10, end=200, living_only=True),
        "static": static(optax.adam(0.1), keep=8, key=KEY, living_only=True),
    }[method]
    algorithm = nesht(num_members=64, sigma=0.1, optimizer=optimizer)

    def generation(state, _):
        members = algorithm.ask(state)
        return algorithm.tell(state, -jnp.sum((members - truth[None]) ** 2, axis=(1, 2)))[0], None

    state = algorithm.init(jax.random.key(0), jnp.zeros((100, 1)))
    state, _ = jax.jit(lambda s: jax.lax.scan(generation, s, None, 300))(state)
    alive = set(np.flatnonzero(np.asarray(mask_of(state.optimizer, state.params))[:, 0]))
    assert (alive >= set(range(5))) == (method == "rigl")


def test_a_policy_begins_as_sparse_as_its_optimizer_says():
    for method in METHODS:
        optimizer = MAKERS[method](optax.sgd(0.1))
        algorithm = nesht(num_members=8, sigma=0.1, optimizer=optimizer)
        state = algorithm.init(jax.random.key(0), PARAMS)
        mask = mask_of(state.optimizer, PARAMS)
        equal(state.params, jax.tree.map(lambda p, m: jnp.where(m, p, 0), PARAMS, mask))


@pytest.mark.slow
def test_members_perturb_what_lives_and_all_where_gradients_say_what_grows():
    for method in ("rigl", "set"):
        optimizer = MAKERS[method](optax.sgd(0.1), living_only=True)
        algorithm = nesht(num_members=8, sigma=0.1, optimizer=optimizer)
        ask, tell = jax.jit(algorithm.ask), jax.jit(algorithm.tell)
        state = algorithm.init(jax.random.key(0), PARAMS)
        for generation in range(5):
            support = support_of(state.optimizer, PARAMS)
            mask = mask_of(state.optimizer, PARAMS)
            all_move = method == "rigl" and generation % 3 == 0
            equal(support, jax.tree.map(lambda m, a=all_move: m | a, mask))
            moved = jax.tree.map(lambda x: x[0] != x[1], ask(state))
            equal(moved, support)
            state, _ = tell(state, jnp.arange(8, dtype=jnp.float32))
        assert sparse_states(state.optimizer)[0].updates == 5


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ({"layer9/kernel": 3}, "keep: there is no kernel 'layer9/kernel', but layer0/kernel, "),
        ({"layer0/bias": 3}, "keep: there is no kernel 'layer0/bias', but layer0/kernel, "),
        ({"layer0/kernel": 21}, "must be at most the 20 weights there are, got 21"),
        ({"layer0/kernel": 0}, "must be at least 1, got 0"),
        (33, "keep must be at most the 32 weights there are, got 33"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(keep, sentence):
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[")):
        static(optax.sgd(0.1), keep=keep, key=KEY).init(PARAMS)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"drop": 1.5}, r"drop must be in \[0, 1\], got 1.5"),
        ({"begin": -1}, "begin must be at least 0, got -1"),
        ({"begin": 5, "end": 5}, "end must be more than begin, 5, got 5"),
    ],
)
def test_impossible_schedules_are_refused(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        rigl(optax.sgd(0.1), **({"keep": 3, "key": KEY, "every": 2} | option))


def test_params_must_be_given(unchecked):
    optimizer = static(optax.sgd(0.1), keep=3, key=KEY)
    with pytest.raises(ValueError, match="needs params"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


@pytest.mark.parametrize("method", [set_, rigl, static], ids=lambda method: method.__name__)
def test_a_state_may_be_donated_and_another_begun_alike(method):
    options = {} if method is static else {"every": 2, "end": 20}
    optimizer = method(optax.sgd(0.1), keep=5, key=jax.random.key(1), **options)
    params = {"kernel": jnp.ones((10, 2))}
    first = jax.tree.map(np.array, optimizer.init(params))
    jax.jit(optimizer.update, donate_argnums=1)(params, optimizer.init(params), params)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(np.array, optimizer.init(params)), first
    )
