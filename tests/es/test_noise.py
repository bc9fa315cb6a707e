"""Noise: one member's bits are the same however, wherever and with whomever they are drawn."""

import os
import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax.es.noise import fan_ins, normal, perturbation, quantile, threefry

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(7)
PARAMS = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3), "scale": jnp.zeros(())}


draw = jax.jit(jax.vmap(perturbation, (None, 0, None)))


def drawn(directions, key=KEY, params=PARAMS):
    """ε of many directions, flat: [n, d]."""
    noise = draw(key, jnp.asarray(directions), params)
    return np.concatenate([np.reshape(e, (len(e), -1)) for e in jax.tree.leaves(noise)], 1)


def alone(direction, params=PARAMS):
    """ε of one direction, flat: [d], without jit or vmap."""
    noise = perturbation(KEY, direction, params)
    return np.concatenate([np.ravel(e) for e in jax.tree.leaves(noise)])


@pytest.mark.bits
@pytest.mark.slow
def test_a_direction_drawn_alone_has_the_bits_it_has_under_vmap_and_jit():
    together = drawn(range(16))
    for direction in (0, 1, 15):
        np.testing.assert_array_equal(together[direction], alone(direction))


@pytest.mark.bits
@pytest.mark.parametrize("chunk", [1, 8])
def test_chunks_and_their_order_leave_the_bits(chunk):
    starts = range(0, 16, chunk)
    parts = {start: drawn(range(start, start + chunk)) for start in reversed(starts)}
    np.testing.assert_array_equal(drawn(range(16)), np.concatenate([parts[s] for s in starts]))


@pytest.mark.bits
@pytest.mark.slow
def test_eight_devices_draw_the_bits_of_one(tmp_path):
    script = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from nesht_jax.es.noise import perturbation

assert jax.device_count() == 8
split = NamedSharding(jax.make_mesh((8,), ("devices",)), PartitionSpec("devices"))
directions = jax.device_put(jnp.arange(16), split)
draw = jax.vmap(lambda j: perturbation(jax.random.key(7), j, jnp.zeros((4, 3))))
noise = jax.jit(draw, out_shardings=split)(directions)
assert len(noise.sharding.device_set) == 8
np.save(sys.argv[1], np.asarray(noise))
"""
    path = tmp_path / "noise.npy"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    forced = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script, path], env={**os.environ, **forced}, check=True)
    one = drawn(range(16), params=jnp.zeros((4, 3)))
    np.testing.assert_array_equal(np.load(path).reshape(16, -1), one)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_leaves_keep_shape_and_dtype(dtype):
    params = {"a": jnp.zeros((2, 3), dtype), "b": jnp.zeros((), jnp.float32)}
    noise = perturbation(KEY, 0, params)
    assert jax.tree.map(jax.typeof, noise) == jax.tree.map(jax.typeof, params)


def test_values_of_params_are_not_read():
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS)
    spoilt = jax.tree.map(lambda leaf: leaf + jnp.nan, PARAMS)
    np.testing.assert_array_equal(alone(3), alone(3, params=abstract))
    np.testing.assert_array_equal(alone(3), alone(3, params=spoilt))


@pytest.mark.parametrize(
    "power, expected, variance", [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]
)
def test_moments_are_those_of_a_standard_normal(power, expected, variance):
    powers = drawn(range(3000)) ** power
    standard_error = np.sqrt(variance / powers.size)
    assert abs(powers.mean() - expected) < STANDARD_ERRORS * standard_error


def correlation_is_chance(a, b):
    products = np.ravel(a) * np.ravel(b)
    return abs(products.mean()) < STANDARD_ERRORS / np.sqrt(products.size)


@pytest.mark.parametrize("lag", [1, 2, 1000])
def test_directions_are_independent(lag):
    noise = drawn(range(3000))
    assert correlation_is_chance(noise[lag:], noise[:-lag])


def test_leaves_of_one_shape_are_independent():
    noise = drawn(range(3000), params={"a": jnp.zeros(4), "b": jnp.zeros(4)})
    assert correlation_is_chance(noise[:, :4], noise[:, 4:])


def test_generations_are_independent():
    first, second = (drawn(range(3000), jax.random.fold_in(KEY, g)) for g in (0, 1))
    assert correlation_is_chance(first, second)


# ------------------------------------------------------------------------------- the generator


def test_threefry_is_the_published_one():
    """The known answer of its authors' Random123, and JAX's own."""
    key = jnp.array([0x13198A2E, 0x03707344], jnp.uint32)
    words = threefry(key, jnp.array([0x243F6A88], jnp.uint32), jnp.array([0x85A308D3], jnp.uint32))
    assert [int(word[0]) for word in words] == [0xC4923A9C, 0x483DF7A0]
    high, low = jax.random.bits(KEY, (2, 100))
    theirs = jax.extend.random.threefry_2x32(key, jnp.concatenate([high, low]))
    np.testing.assert_array_equal(jnp.concatenate(threefry(key, high, low)), theirs)


def test_bits_become_normals_by_their_quantile():
    bits = np.random.default_rng(0).integers(0, 2**32, 10000, dtype=np.uint32)
    probability = ((bits >> 9).astype(np.float64) + 0.5) / 2**23
    np.testing.assert_allclose(quantile(jnp.asarray(bits)), stats.norm.ppf(probability), rtol=2e-4)


def test_the_extremes_are_finite_and_mirror_each_other():
    lowest, highest = quantile(jnp.array([0, 2**32 - 1], jnp.uint32))
    assert lowest == -highest and 5 < highest < 5.5


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_shape_of_any_size_is_filled_with_different_entries(size):
    entries = np.asarray(normal(jnp.array([1, 2], jnp.uint32), 0, (size,)))
    assert len(set(entries.tolist())) == size


def test_normals_pass_kolmogorov_and_smirnov():
    for stream in (0, 1, 2**31 - 1):
        sample = np.asarray(normal(jnp.array([1, 2], jnp.uint32), stream, (100000,)), np.float64)
        assert stats.kstest(sample, "norm").pvalue > 1e-3


# ------------------------------------------------------------------------------------- low rank

RANK, SHAPE = 2, (9, 5)


@jax.jit
def draw_low_rank(directions):
    """ε of a matrix at rank 2, multiplied: [n, in, out]."""
    draw = jax.vmap(lambda j: perturbation(KEY, j, jnp.zeros(SHAPE), rank=RANK))
    epsilon = draw(directions)
    return jnp.einsum("nir,nor->nio", epsilon.a, epsilon.b)


@pytest.mark.slow
def test_only_a_matrix_with_more_entries_than_its_factors_is_low_rank():
    params = {"wide": jnp.zeros(SHAPE), "thin": jnp.zeros((20, 2)), "bias": jnp.zeros(100)}
    noise = perturbation(KEY, 0, params, rank=RANK)
    assert noise["wide"].a.shape == (9, RANK) and noise["wide"].b.shape == (5, RANK)
    assert noise["wide"].matrix is None
    full = perturbation(KEY, 0, params)
    for name in ("thin", "bias"):
        np.testing.assert_array_equal(noise[name], full[name])


def test_a_low_rank_perturbation_has_that_rank():
    ranks = np.linalg.matrix_rank(np.asarray(draw_low_rank(jnp.arange(20))), tol=1e-4)
    assert (ranks == RANK).all()


def test_entries_of_a_low_rank_perturbation_are_uncorrelated_and_standard():
    """E ε = 0 and E vec ε vec εᵀ = I; each average within its own standard errors."""
    epsilon = np.asarray(draw_low_rank(jnp.arange(5000))).reshape(5000, -1)
    products = np.einsum("na,nb->nab", epsilon, epsilon)
    for sample, mean in ((epsilon, 0), (products, np.eye(epsilon.shape[1]))):
        errors = (sample.mean(0) - mean) / (sample.std(0) / np.sqrt(len(sample)))
        assert abs(errors).max() < STANDARD_ERRORS + 1  # the largest of 2025


@pytest.mark.parametrize("rank", [1, None])
def test_the_price_of_a_low_rank_is_that_of_the_closed_form(rank):
    """E‖ε⟨ε, C⟩‖² = ‖C‖²(d + 2 + 2(in + out + 1)/r); without the last term at full rank."""
    c = np.random.default_rng(1).normal(size=SHAPE)
    if rank is None:
        epsilon = np.asarray(draw(KEY, jnp.arange(20000), jnp.zeros(SHAPE)))
    else:
        one = jax.vmap(lambda j: perturbation(KEY, j, jnp.zeros(SHAPE), rank=rank))
        drawn = jax.jit(one)(jnp.arange(20000))
        epsilon = np.einsum("nir,nor->nio", drawn.a, drawn.b)
    squared = (epsilon**2).sum((1, 2)) * (epsilon * c).sum((1, 2)) ** 2
    d = c.size
    extra = 0 if rank is None else 2 * (sum(SHAPE) + 1) / rank
    standard_error = squared.std() / np.sqrt(len(squared))
    assert abs(squared.mean() - (c**2).sum() * (d + 2 + extra)) < STANDARD_ERRORS * standard_error


# --------------------------------------------------------------------------------------- fan-in


LAYERS = {
    "conv": {"kernel": jnp.zeros((2, 2, 3, 4)), "bias": jnp.zeros(4)},
    "dense": {"kernel": jnp.zeros((5, 4))},
    "phantom": jnp.zeros(4),
    "scale": jnp.zeros(()),
}


def test_the_fan_in_is_of_all_weights_into_an_output():
    counts = fan_ins(LAYERS)
    for leaf, expected in (
        (counts["conv"]["kernel"], [[[[13] * 4]]]),
        (counts["conv"]["bias"], [13] * 4),
        (counts["dense"]["kernel"], [[5] * 4]),
        (counts["phantom"], [1] * 4),
        (counts["scale"], 1),
    ):
        np.testing.assert_array_equal(leaf, expected)


def test_the_fan_in_counts_what_is_perturbed():
    kernel = jnp.array([[True, False, False], [True, True, False]])
    support = {"layer": {"kernel": kernel, "bias": jnp.array([True, False, False])}}
    counts = fan_ins(support, support)["layer"]
    np.testing.assert_array_equal(counts["kernel"], [[3, 1, 1]], "1 at least")
    np.testing.assert_array_equal(counts["bias"], [3, 1, 1])
