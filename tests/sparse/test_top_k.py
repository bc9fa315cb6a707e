"""H_k against an independent numpy oracle, on whatever bits, sizes, dtypes and devices."""

import itertools
import os
import re
import subprocess
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nesht_jax.sparse import kth_magnitude
from nesht_jax.sparse.top_k import hard_threshold, num_kept, num_kept_of_array, top_k_mask

SHAPES = ((3, 2), (), (5,))
SIZE = 12
BITS = {
    np.dtype(np.float16): np.uint16,
    np.dtype(ml_dtypes.bfloat16): np.uint16,
    np.dtype(np.float32): np.uint32,
    np.dtype(np.float64): np.uint64,
}


@jax.jit
def mask_and_kept(params, k):
    return top_k_mask(params, k), hard_threshold(params, k)


def jitted_mask(params, k):
    return mask_and_kept(params, k)[0]


def jitted_threshold(params, k):
    return mask_and_kept(params, k)[1]


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
    found, kept = map(flattened, mask_and_kept(leaves_of(flat), k))
    np.testing.assert_array_equal(found, mask)
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
    kept = jitted_threshold(x, 3)
    assert kept["a"].tolist() == [0, 2] and kept["b"].tolist() == [[2, 0], [0, 3]]


def test_nan_is_never_hidden():
    kept = jitted_threshold(jnp.array([np.inf, np.nan, 5.0]), 1)
    np.testing.assert_array_equal(kept, [0, np.nan, 0])


def test_leaves_of_two_dtypes_compete_by_value():
    x = [jnp.array([1.0, 3.0], jnp.bfloat16), jnp.array([2.0, 0.5], jnp.float32)]
    kept = jitted_threshold(x, 2)
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


def mask_of_large(flat, k):
    return top_k_mask([flat[:900].reshape(30, 30), flat[900:]], k)


@pytest.fixture
def small_blocks(monkeypatch):
    """Lets vectors of ``LARGE`` entries be sampled and counted in blocks, as large ones are."""
    monkeypatch.setattr(kth_magnitude, "SAMPLE", 64)
    monkeypatch.setattr(kth_magnitude, "BLOCK", 128)


jitted_mask_of_large = jax.jit(mask_of_large)  # traced once, with small blocks


@pytest.mark.parametrize("name", LARGE_VECTORS)
def test_large_vectors_are_sampled_and_counted_in_blocks(small_blocks, name):
    flat = LARGE_VECTORS[name].astype(np.float32)
    for k in (0, 1, 7, 300, 1501, LARGE - 1, LARGE, LARGE + 5):
        mask = flattened(jitted_mask_of_large(flat, np.int32(k)))
        np.testing.assert_array_equal(mask, oracle_mask(flat, k), str(k))


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


swept_threshold = jax.jit(jax.vmap(hard_threshold, (None, 0)))


@pytest.mark.parametrize("flat", [NORMAL, np.ones(SIZE, np.float32)], ids=["normal", "ties"])
def test_a_sweep_over_k_is_a_vmap(flat):
    swept = swept_threshold(flat, jnp.arange(SIZE + 2))
    for k in range(SIZE + 2):
        np.testing.assert_array_equal(swept[k], np.where(oracle_mask(flat, k), flat, 0))


def test_many_vectors_are_a_vmap():
    rows = np.random.default_rng(4).normal(size=(5, SIZE)).astype(np.float32)
    kept = jax.jit(jax.vmap(lambda x: hard_threshold(x, 4)))(rows)
    np.testing.assert_array_equal(kept, [np.where(oracle_mask(row, 4), row, 0) for row in rows])


def test_without_jit_the_same():
    kept = hard_threshold(leaves_of(NORMAL), 5)
    np.testing.assert_array_equal(
        flattened(kept), flattened(jitted_threshold(leaves_of(NORMAL), 5))
    )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_a_leaf_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match=f"floating-point leaves, got {jnp.dtype(dtype)}"):
        hard_threshold({"a": jnp.ones(2, dtype), "b": jnp.ones(2)}, 1)


@pytest.mark.parametrize("params", [{}, jnp.zeros(0), {"a": jnp.zeros((0, 3))}])
def test_of_nothing_nothing_is_kept(params):
    mask = top_k_mask(params, 3)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert all(leaf.dtype == bool and leaf.size == 0 for leaf in jax.tree.leaves(mask))


@pytest.mark.parametrize(
    "k",
    [3, np.int64(3), np.uint8(3), np.array(3), jnp.int32(3), jnp.uint8(3)],
    ids=["int", "np.int64", "np.uint8", "np.array", "jnp.int32", "jnp.uint8"],
)
def test_k_may_be_an_integer_of_any_library(k, unchecked):
    for threshold in (hard_threshold, jitted_threshold):
        kept = threshold(NORMAL, k)
        np.testing.assert_array_equal(kept, np.where(oracle_mask(NORMAL, 3), NORMAL, 0))


@pytest.mark.parametrize("k", [0.1, 2.5, "3", True, np.True_, None, {"all": 0.3}, [3]])
def test_k_that_is_no_integer_is_refused(k, unchecked):
    with pytest.raises(TypeError, match=re.escape(f"k must be a positive integer, got {k!r}")):
        hard_threshold(NORMAL, k)


@pytest.mark.parametrize("k", [0, -1, np.int64(0), np.int64(-1)])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match=re.escape(f"k must be at least 1, got {k!r}")):
        hard_threshold(NORMAL, k)


def test_traced_k_that_is_no_integer_is_refused(unchecked):
    with pytest.raises(TypeError, match="integer, got ~float32"):
        jax.jit(hard_threshold)(NORMAL, 2.5)


@pytest.mark.parametrize("k", [2**31 - 1, 2**31, 2**63, np.uint32(2**31)])
def test_k_beyond_32_bits_keeps_all(k):
    np.testing.assert_array_equal(hard_threshold(NORMAL, k), NORMAL)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_traced_k_of_few_bits_counts_among_many_entries(dtype):
    x = np.arange(1, 301, dtype=np.float32)
    assert jnp.count_nonzero(jitted_threshold(x, dtype(100))) == 100


def test_no_dtype_is_promoted(small_blocks):
    with jax.numpy_dtype_promotion("strict"):
        mask = jax.eval_shape(mask_of_large, jnp.ones(LARGE), jnp.int32(1))
    assert [leaf.dtype for leaf in mask] == [bool, bool]


@pytest.mark.slow
def test_under_x64_the_same(small_blocks):
    flat = LARGE_VECTORS["few values"].astype(np.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        mask = jax.jit(mask_of_large)(flat, np.int64(700))
        assert hard_threshold(jnp.float32(2), 1).dtype == jnp.float32
    np.testing.assert_array_equal(flattened(mask), oracle_mask(flat, 700))


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["Auto", "Explicit"])
def test_on_eight_devices_the_same(axis, tmp_path):
    """Small as they are, the vectors are sampled and counted in blocks."""
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from nesht_jax.sparse import kth_magnitude
from nesht_jax.sparse.top_k import hard_threshold

kth_magnitude.SAMPLE, kth_magnitude.BLOCK = 4, 2
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


@pytest.mark.parametrize("sparsity", [np.float32(0.29), np.float64(0.29), ml_dtypes.bfloat16(0.29)])
def test_num_kept_takes_a_numpy_float_as_it_is_printed(sparsity, unchecked):
    assert num_kept(1000, sparsity) == 1000 - int(1000 * float(str(sparsity)))


@pytest.mark.parametrize("sparsity", ["0.5", True, None, [0.5]])
def test_num_kept_refuses_what_is_no_number(sparsity, unchecked):
    with pytest.raises(TypeError, match=re.escape(f"got {sparsity!r}")):
        num_kept(10, sparsity)


of_array = jax.jit(jax.vmap(num_kept_of_array, (None, 0)), static_argnums=0)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("d", [1, 100, 999_999, 123_456_789, 2**31 - 1])
def test_num_kept_of_an_array_is_that_of_the_decimal(d, x64):
    millionths = np.random.default_rng(8).integers(0, 10**6, 1000)
    with jax.enable_x64(x64):
        kept = of_array(d, np.float32(millionths / 1e6))
    np.testing.assert_array_equal(kept, [d - int(m) * d // 10**6 for m in millionths])


def test_num_kept_of_an_array_clips():
    kept = of_array(10, np.float32([-1, np.nan, 1, np.inf]))
    np.testing.assert_array_equal(kept, [10, 10, 1, 1])
