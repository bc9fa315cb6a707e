"""H_k against an independent numpy oracle, and its optax form against the published rules."""

import functools
import itertools
import os
import subprocess
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nesht_jax import threshold
from nesht_jax.threshold import (
    hard_threshold,
    hard_thresholding,
    largest,
    masked_moments,
    num_kept,
)

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

SHAPES = ((3, 2), (), (5,))
SIZE = 12
BITS = {
    np.dtype(np.float16): np.uint16,
    np.dtype(ml_dtypes.bfloat16): np.uint16,
    np.dtype(np.float32): np.uint32,
    np.dtype(np.float64): np.uint64,
}

jitted_mask = jax.jit(largest)
jitted_threshold = jax.jit(hard_threshold)


# ------------------------------------------------------------------------------- the operator


def leaves_of(flat):
    """A flat vector as a tree of several leaves."""
    flat, leaves, start = np.asarray(flat), [], 0
    for shape in SHAPES:
        size = int(np.prod(shape))
        leaves.append(jnp.asarray(flat[start : start + size].reshape(shape)))
        start += size
    return leaves


def flattened(leaves):
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def oracle_mask(flat, k):
    """The k first by (NaN, largest magnitude, lowest index)."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        magnitude = abs(np.asarray(flat).astype(np.float64))
    nan = np.isnan(magnitude)
    order = np.lexsort((-np.where(nan, 0, magnitude), ~nan))  # stable; the last key decides first
    mask = np.zeros(nan.size, bool)
    mask[order[:k]] = True
    return mask


def agrees_with_oracle(flat, k):
    mask = oracle_mask(flat, k)
    np.testing.assert_array_equal(flattened(jitted_mask(leaves_of(flat), k)), mask)
    kept = flattened(jitted_threshold(leaves_of(flat), k))
    with np.errstate(invalid="ignore"):  # a signalling NaN
        expected = np.where(mask, flat, np.zeros_like(flat)).astype(np.float64)
        np.testing.assert_array_equal(kept.astype(np.float64), expected)


def patterns(dtype):
    """Any bit pattern, the troublesome ones often: zeros, subnormals, infinities, several NaN."""
    bits = BITS[np.dtype(dtype)]
    sign = 1 << (np.iinfo(bits).bits - 1)
    inf = int(np.array(np.inf, dtype).view(bits))
    one = int(np.array(1, dtype).view(bits))
    positive = [0, 1, 2, one - 1, one, one + 1, inf - 1, inf, inf + 1, inf + 3, sign - 1]
    hard = st.sampled_from([p | s for p in positive for s in (0, sign)])
    anything = st.integers(0, int(np.iinfo(bits).max))
    pattern = st.one_of(hard, hard, anything)
    return st.lists(pattern, min_size=SIZE, max_size=SIZE).map(
        lambda values: np.array(values, bits).view(dtype)
    )


@settings(deadline=None, max_examples=100)
@given(data=st.data(), k=st.integers(0, SIZE + 2))
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_equals_the_oracle_on_adversarial_inputs(dtype, data, k):
    with jax.enable_x64(dtype is np.float64):
        agrees_with_oracle(data.draw(patterns(dtype)), k)


@pytest.mark.parametrize("k", [0, 1, 5, 11, 12, 40])
@pytest.mark.parametrize(
    "flat",
    [
        np.ones(SIZE),
        np.zeros(SIZE),
        [-0.0, 0.0] * 6,
        [1.0, -1.0] * 6,
        [np.inf, -np.inf, 0, 3] * 3,
        [np.nan, 1, np.inf, 0] * 3,
        [np.nan] * SIZE,
        [1e-45, -1e-45, 3e-45, 0] * 3,
    ],
    ids=["ties", "zeros", "signed zeros", "signs", "infinities", "NaN", "all NaN", "subnormals"],
)
def test_keeps_exactly_k(flat, k):
    mask = flattened(jitted_mask(leaves_of(np.float32(flat)), k))
    assert mask.sum() == min(k, SIZE)


def test_ties_go_to_the_lowest_flat_index():
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[2.0, -2.0], [2.0, 3.0]])}
    kept = hard_threshold(x, 3)
    assert kept["a"].tolist() == [0, 2] and kept["b"].tolist() == [[2, 0], [0, 3]]


def test_nan_is_never_hidden():
    kept = hard_threshold(jnp.array([np.inf, np.nan, 5.0]), 1)
    np.testing.assert_array_equal(kept, [0, np.nan, 0])


def test_leaves_of_two_dtypes_compete_by_value():
    x = [jnp.array([1.0, 3.0], jnp.bfloat16), jnp.array([2.0, 0.5], jnp.float32)]
    kept = hard_threshold(x, 2)
    assert [leaf.tolist() for leaf in kept] == [[0, 3], [2, 0]]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("k", range(7))
@pytest.mark.parametrize("seed", range(3))
def test_is_the_nearest_k_sparse_point(seed, k):
    x = np.random.default_rng(seed).normal(size=6).astype(np.float32)
    distance = np.sum((np.asarray(jitted_threshold(x, k)) - x) ** 2)
    for support in itertools.combinations(range(6), k):
        outside = np.delete(x, support)  # the nearest point with this support is x on it
        assert distance <= np.sum(outside**2) + 1e-6


NORMAL = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)


LARGE = 3000
LARGE_VECTORS = {
    "normal": np.random.default_rng(5).normal(size=LARGE),
    "heavy tails": np.random.default_rng(6).standard_cauchy(size=LARGE) ** 3,
    "few values": np.random.default_rng(7).integers(-3, 4, LARGE),
    "one value": np.full(LARGE, -2.5),
    "a sample that misleads": np.where(np.arange(LARGE) % 7 == 0, 1e-30, np.arange(LARGE) + 1.0),
    "mostly zeros": np.where(np.arange(LARGE) % 50 == 3, np.arange(LARGE), 0),
    "one enormous": np.where(np.arange(LARGE) == 2000, 1e38, 1e-38),
    "neighbours": np.float32(1.0) + np.arange(LARGE) * np.float32(2**-23),
    "NaN and infinities": np.where(np.arange(LARGE) % 3 == 0, np.nan, np.inf),
}


@pytest.mark.parametrize("name", LARGE_VECTORS)
def test_large_vectors_are_sampled_and_counted_in_blocks(monkeypatch, name):
    monkeypatch.setattr(threshold, "SAMPLE", 64)
    monkeypatch.setattr(threshold, "BLOCK", 128)
    flat = LARGE_VECTORS[name].astype(np.float32)
    mask = jax.jit(lambda x, k: largest([x[:900].reshape(30, 30), x[900:]], k))
    for k in (0, 1, 7, 300, 1501, LARGE - 1, LARGE, LARGE + 5):
        np.testing.assert_array_equal(flattened(mask(flat, k)), oracle_mask(flat, k), str(k))


def test_is_idempotent():
    once = jitted_threshold(NORMAL, 5)
    np.testing.assert_array_equal(jitted_threshold(once, 5), once)


@pytest.mark.parametrize("scale", [-1.0, 0.1, 7.3, 1e30])
def test_is_scale_equivariant(scale):
    scaled = np.float32(scale) * NORMAL
    np.testing.assert_array_equal(
        jitted_threshold(scaled, 5), np.float32(scale) * jitted_threshold(NORMAL, 5)
    )


def test_is_permutation_equivariant():
    shuffle = np.random.default_rng(2).permutation(SIZE)
    np.testing.assert_array_equal(
        jitted_threshold(NORMAL[shuffle], 5), np.asarray(jitted_threshold(NORMAL, 5))[shuffle]
    )


def test_the_cut_into_leaves_does_not_matter():
    whole = jitted_threshold(NORMAL, 5)
    np.testing.assert_array_equal(flattened(jitted_threshold(leaves_of(NORMAL), 5)), whole)


@pytest.mark.parametrize("flat", [NORMAL, np.ones(SIZE, np.float32)], ids=["normal", "ties"])
def test_a_sweep_over_k_is_a_vmap(flat):
    ks = jnp.arange(SIZE + 2)
    swept = jax.vmap(hard_threshold, (None, 0))(jnp.asarray(flat), ks)
    for k in range(SIZE + 2):
        np.testing.assert_array_equal(swept[k], np.where(oracle_mask(flat, k), flat, 0))


def test_many_vectors_are_a_vmap():
    rows = np.random.default_rng(4).normal(size=(5, SIZE)).astype(np.float32)
    kept = jax.vmap(lambda x: hard_threshold(x, 4))(rows)
    np.testing.assert_array_equal(kept, [np.where(oracle_mask(row, 4), row, 0) for row in rows])


def test_without_jit_the_same():
    kept = hard_threshold(leaves_of(NORMAL), 5)
    np.testing.assert_array_equal(
        flattened(kept), flattened(jitted_threshold(leaves_of(NORMAL), 5))
    )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_a_leaf_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match="floating-point"):
        hard_threshold({"a": jnp.ones(2, dtype), "b": jnp.ones(2)}, 1)


@pytest.mark.parametrize("axis", ["Auto", "Explicit"])
def test_on_eight_devices_the_same(axis, tmp_path):
    """Small as they are, the vectors are sampled and counted in blocks."""
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from nesht_jax import threshold
from nesht_jax.threshold import hard_threshold

threshold.SAMPLE, threshold.BLOCK = 4, 2
mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType[sys.argv[3]],))
split = NamedSharding(mesh, PartitionSpec("devices"))
x = jax.device_put(np.load(sys.argv[1]), split)
kept = jax.jit(hard_threshold, out_shardings=split)(x, 20)
assert len(kept.sharding.device_set) == 8
np.save(sys.argv[2], np.asarray(kept))
"""
    x = np.random.default_rng(3).integers(-3, 4, size=(16, 4)).astype(np.float32)  # many ties
    source, kept = tmp_path / "given.npy", tmp_path / "kept.npy"
    np.save(source, x)
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    forced = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", script, source, kept, axis]
    subprocess.run(arguments, env={**os.environ, **forced}, check=True)
    expected = np.where(oracle_mask(x.ravel(), 20).reshape(x.shape), x, 0)
    np.testing.assert_array_equal(np.load(kept), expected)


# ------------------------------------------------------------------------------ how many are kept


@pytest.mark.parametrize(
    "d, sparsity, k",
    [(100, 0.29, 71), (100, 0.57, 43), (10, 0.0, 10), (10, 0.7, 3), (201, 0.9, 21), (1, 0.99, 1)],
)
def test_num_kept_takes_sparsity_as_the_decimal_written(d, sparsity, k):
    assert num_kept(d, sparsity) == k


@given(st.integers(1, 10**7), st.integers(0, 999))
def test_num_kept_is_d_minus_the_exact_floor(d, thousandths):
    exact = Fraction(thousandths, 1000) * d
    assert num_kept(d, thousandths / 1000) == d - exact.numerator // exact.denominator


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_num_kept_refuses_what_makes_no_policy(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        num_kept(10, sparsity)


# ----------------------------------------------------------------------------- the optax link

PARAMS = {
    "layer0": {"kernel": jnp.asarray(NORMAL.reshape(4, 3)), "bias": jnp.array([0.3, -2.0, 0.01])},
    "layer1": {"kernel": jnp.array([[0.9], [-0.2], [0.4]]), "bias": jnp.array([3.0])},
}
D = 19


def gradients(seed):
    leaves, treedef = jax.tree.flatten(PARAMS)
    normal = np.random.default_rng(seed).normal
    return jax.tree.unflatten(
        treedef, [jnp.asarray(normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    )


def stepped(optimizer, *, steps=1, params=PARAMS):
    """Params after each of some updates."""
    state, update, path = optimizer.init(params), jax.jit(optimizer.update), []
    for seed in range(steps):
        updates, state = update(gradients(seed), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


@functools.cache
def dense_step():
    """What the plain optimizer of ``chained`` makes of the params."""
    return stepped(optax.sgd(0.5))[0]


def nonzero(params):
    return int(sum(jnp.count_nonzero(leaf) for leaf in jax.tree.leaves(params)))


def masked_by(dense, mask):
    return jax.tree.map(lambda leaf, kept: np.where(kept, leaf, 0), dense, mask)


def chained(**rule):
    return optax.chain(optax.sgd(0.5), hard_thresholding(**rule))


@pytest.mark.parametrize("size", [{"sparsity": 0.7}, {"keep": 6}])
def test_the_centre_is_exactly_k_sparse_and_kept_entries_step_as_without(size):
    dense, (sparse,) = dense_step(), stepped(chained(**size))
    assert nonzero(sparse) == 6
    jax.tree.map(np.testing.assert_array_equal, sparse, jitted_threshold(dense, 6))


def test_kept_entries_take_the_plain_step_to_the_bit():
    """A difference of sums would round it away: the weights are far larger than the step."""
    params, link = jax.tree.map(lambda p: 1e4 * p, PARAMS), hard_thresholding(keep=6)
    updates, _ = jax.jit(link.update)(gradients(0), link.init(params), params)
    kept = jitted_mask(jax.tree.map(jnp.add, params, gradients(0)), 6)
    expected = jax.tree.map(lambda k, g, p: np.where(k, g, -p), kept, gradients(0), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_it_stays_k_sparse_behind_adam():
    path = stepped(optax.chain(optax.adam(0.1), hard_thresholding(sparsity=0.7)), steps=4)
    assert [nonzero(params) for params in path] == [6] * 4


def test_every_thresholds_the_first_update_and_each_so_many_after():
    path = stepped(chained(sparsity=0.7, every=3), steps=8)
    sparse = [nonzero(params) == 6 for params in path]
    assert sparse == [True, False, False, True, False, False, True, False]


def test_between_thresholds_the_step_is_the_plain_one():
    first, second = stepped(chained(sparsity=0.7, every=3), steps=2)
    expected = jax.tree.map(lambda p, g: p - np.float32(0.5) * g, first, gradients(1))
    jax.tree.map(np.testing.assert_array_equal, second, expected)


def test_scope_layer_thresholds_each_layer_by_itself():
    dense, (sparse,) = dense_step(), stepped(chained(sparsity=0.7, scope="layer"))
    for layer, d in [("layer0", 15), ("layer1", 4)]:
        expected = jitted_threshold(dense[layer], num_kept(d, 0.7))
        jax.tree.map(np.testing.assert_array_equal, sparse[layer], expected)


def test_scope_function_chooses_groups_and_leaves_the_rest_alone():
    def kernels_of_layer1(path):
        return "last" if path == ("layer1", "kernel") else None

    dense = dense_step()
    (sparse,) = stepped(chained(keep=1, scope=kernels_of_layer1))
    expected = {
        "layer0": dense["layer0"],
        "layer1": {**dense["layer1"], "kernel": jitted_threshold(dense["layer1"]["kernel"], 1)},
    }
    jax.tree.map(np.testing.assert_array_equal, sparse, expected)


@pytest.mark.parametrize("scope", ["all", "layer"])
def test_exempt_biases_step_as_without(scope):
    dense = dense_step()
    (sparse,) = stepped(chained(keep=2, scope=scope, exempt_bias=True))
    for layer in ("layer0", "layer1"):
        np.testing.assert_array_equal(sparse[layer]["bias"], dense[layer]["bias"])
    kernels = [sparse[layer]["kernel"] for layer in ("layer0", "layer1")]
    assert nonzero(kernels) == {"all": 2, "layer": 4}[scope]


def test_stale_quantile_measures_before_the_step_and_cuts_after_it():
    dense, (sparse,) = (
        dense_step(),
        stepped(chained(sparsity=0.7, rule="stale_quantile")),
    )
    before = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)])
    bar = np.quantile(abs(before), 0.7)
    expected = jax.tree.map(lambda leaf: np.where(abs(leaf) >= bar, leaf, 0), dense)
    jax.tree.map(np.testing.assert_array_equal, sparse, expected)


def test_signed_quantile_measures_the_signed_weights():
    dense, (sparse,) = (
        dense_step(),
        stepped(chained(sparsity=0.7, rule="signed_quantile")),
    )
    after = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(dense)])
    bar = np.quantile(after, 0.7)
    expected = jax.tree.map(lambda leaf: np.where(abs(leaf) >= bar, leaf, 0), dense)
    jax.tree.map(np.testing.assert_array_equal, sparse, expected)


def test_signed_quantile_zeroes_about_twice_sparsity_minus_one():
    sparsity, d = 0.9, 20000
    params = jax.random.normal(jax.random.key(0), (d,))
    link = hard_thresholding(sparsity=sparsity, rule="signed_quantile")
    updates, _ = link.update(jnp.zeros(d), link.init(params), params)
    zeroed = float(jnp.mean(params + updates == 0))
    standard_error = np.sqrt(sparsity * (1 - sparsity) / d) * 3  # two quantiles, and their count
    assert abs(zeroed - (2 * sparsity - 1)) < STANDARD_ERRORS * standard_error


def test_keep_may_be_traced():
    @functools.partial(jax.vmap, in_axes=0)
    def sweep(keep):
        link = hard_thresholding(keep=keep)
        return link.update(gradients(0), link.init(PARAMS), PARAMS)[0]

    swept = jax.jit(sweep)(jnp.array([0, 3, D]))
    dense = jax.tree.map(jnp.add, PARAMS, gradients(0))
    for i, k in enumerate([0, 3, D]):
        sparse = jax.tree.map(lambda p, u, i=i: p + u[i], PARAMS, swept)
        jax.tree.map(np.testing.assert_array_equal, sparse, jitted_threshold(dense, k))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({}, "one of them"),
        ({"sparsity": 0.5, "keep": 3}, "one of them"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": -0.5}, r"\[0, 1\)"),
        ({"keep": 0}, "keep must"),
        ({"sparsity": 0.5, "every": 0}, "every"),
        ({"keep": 3, "rule": "stale_quantile"}, "quantile"),
    ],
)
def test_impossible_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        hard_thresholding(**arguments)


def test_update_without_params_is_refused():
    link = hard_thresholding(keep=1)
    with pytest.raises(ValueError, match="params"):
        link.update(gradients(0), link.init(PARAMS))


# ----------------------------------------------------------------------- moments of zeroed weights


def after_one_update(wrap):
    optimizer = wrap(optax.chain(optax.adam(0.1), hard_thresholding(keep=6)))
    updates, state = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    return params, state, optimizer


@pytest.mark.parametrize("moment", ["mu", "nu"])
def test_masked_moments_are_zero_where_the_weight_is_and_untouched_elsewhere(moment):
    params, state, _ = after_one_update(masked_moments)
    _, plain, _ = after_one_update(lambda optimizer: optimizer)
    weights_kept = jax.tree.map(lambda p: p != 0, params)
    expected = masked_by(optax.tree.get(plain, moment), weights_kept)
    jax.tree.map(np.testing.assert_array_equal, optax.tree.get(state, moment), expected)


def test_masked_moments_change_no_update():
    masked, plain = after_one_update(masked_moments)[0], after_one_update(lambda o: o)[0]
    jax.tree.map(np.testing.assert_array_equal, masked, plain)


@pytest.mark.parametrize("wrap, returns", [(masked_moments, False), (lambda o: o, True)])
def test_momentum_moves_a_zeroed_weight_again_unless_masked(wrap, returns):
    """``every=2`` leaves update 2 dense, and its gradient is zero: only momentum can move."""
    link = hard_thresholding(keep=6, every=2)
    optimizer = wrap(optax.chain(optax.adam(0.1), link))
    updates, state = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(still, state, params)
    assert (nonzero(optax.apply_updates(params, updates)) > 6) is returns
