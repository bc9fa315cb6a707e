"""p-values and false discoveries against scipy, and in simulations where the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nesht_jax.sparse.significance import NUMBER, benjamini_hochberg, p_values, with_phantoms

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

PHANTOMS = np.random.default_rng(0).normal(scale=0.03, size=NUMBER).astype(np.float32)
VARIANCE = np.mean(np.float64(PHANTOMS) ** 2)


@jax.jit
def p_of(energy, sizes, phantoms):
    """p of units that have walked as long as the phantoms."""
    variance = jnp.full(energy.shape, jnp.mean(jnp.square(phantoms)))
    return p_values(energy, sizes, variance, phantoms.size)


def sizes_of(energy, size):
    return np.full(len(energy), size, np.int32)


# ------------------------------------------------------------------------------------ p-values


def test_p_values_are_tails_of_the_f_distribution():
    sizes = np.repeat(np.int32([1, 2, 3, 32, 400]), 6)
    ratio = np.tile([0.01, 0.5, 1, 1.3, 2, 4], 5)
    p = p_of(np.float32(ratio * sizes * VARIANCE), sizes, PHANTOMS)
    np.testing.assert_allclose(p, stats.f.sf(ratio, sizes, NUMBER), rtol=1e-3)


def test_of_single_weights_they_are_those_of_the_t_test():
    weights = np.float32([0.001, -0.02, 0.03, 0.05, -0.1, 0.2])
    p = p_of(weights**2, sizes_of(weights, 1), PHANTOMS)
    t = abs(weights) / np.sqrt(VARIANCE)
    np.testing.assert_allclose(p, 2 * stats.t.sf(t, NUMBER), rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_the_unit_of_the_weights_does_not_matter(scale):
    energy = np.float32([0, 0.5, 1, 2, 8]) * np.float32(VARIANCE)
    scaled = p_of(np.float32(energy * scale**2), sizes_of(energy, 2), np.float32(PHANTOMS * scale))
    np.testing.assert_allclose(scaled, p_of(energy, sizes_of(energy, 2), PHANTOMS), rtol=1e-3)


def test_phantoms_that_have_not_moved_tell_nothing():
    energy = np.float32([0, 1e-30, 1, 1e30])
    assert (p_of(energy, sizes_of(energy, 3), np.zeros(8, np.float32)) == 1).all()


def test_weights_at_zero_have_p_one_and_the_enormous_zero():
    p = p_of(np.float32([0, 1e10, 1e30, 3e38]), sizes_of(range(4), 3), PHANTOMS)
    assert p.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("size", [1, 4])
def test_p_is_uniform_where_nothing_matters(size):
    """One unit a draw, as those of one draw share their phantoms: 8, so that F is no χ²."""
    random = np.random.default_rng(size)
    weights, phantoms = (np.float32(0.2 * random.normal(size=(4000, a))) for a in (size, 8))
    energy = (weights**2).sum(1, keepdims=True)
    sizes = np.full((4000, 1), size, np.int32)
    p = np.ravel(jax.jit(jax.vmap(p_of))(energy, sizes, phantoms))
    assert stats.kstest(p, "uniform").pvalue > 0.05
    of_chi2 = stats.chi2.sf(energy[:, 0] / np.mean(phantoms**2, axis=1), size)
    assert stats.kstest(of_chi2, "uniform").pvalue < 1e-5


def test_what_has_walked_longer_is_judged_by_all_its_walk():
    """A sum of steps of any deviations, and p of it uniform: those of the last period alone would
    call nearly every walk significant."""
    random = np.random.default_rng(3)
    deviations = np.array([3.0, 1.0, 0.5])
    walk = (random.normal(size=(4000, 3, 2)) * deviations[:, None]).sum(1)
    phantoms = np.float32(random.normal(size=(4000, 3, NUMBER)) * deviations[:, None])
    energy, sizes = np.float32((walk**2).sum(1, keepdims=True)), np.full((4000, 1), 2, np.int32)

    @jax.jit
    @jax.vmap
    def judged(energy, sizes, phantoms):
        variance = jnp.full(energy.shape, jnp.mean(jnp.square(phantoms), axis=1).sum())
        return p_values(energy, sizes, variance, NUMBER)

    assert stats.kstest(np.ravel(judged(energy, sizes, phantoms)), "uniform").pvalue > 0.05
    by_the_last = jax.jit(jax.vmap(p_of))(energy, sizes, phantoms[:, 2])
    assert np.mean(np.asarray(by_the_last) < 0.05) > 0.7


# ----------------------------------------------------------------------------- false discoveries

rejected_at = jax.jit(benjamini_hochberg)


def mixture(seed, nulls, others):
    """Uniform p-values, and some that are near zero."""
    random = np.random.default_rng(seed)
    p = np.concatenate([random.uniform(size=nulls), random.beta(0.2, 20, size=others)])
    return np.float32(random.permutation(p))


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("nulls, others", [(50, 0), (45, 5), (25, 25), (0, 50)])
def test_it_rejects_what_scipy_rejects(nulls, others, level):
    for seed in range(5):
        p = mixture(seed, nulls, others)
        expected = stats.false_discovery_control(p) <= level
        np.testing.assert_array_equal(rejected_at(p, level), expected)


def test_it_steps_up():
    """The third is below its bar, so the second is rejected, though above its own."""
    p = np.float32([0.02, 0.9, 0.06, 0.07])
    assert rejected_at(p, 0.1).tolist() == [True, False, True, True]


def test_none_or_all_may_be_rejected():
    assert not rejected_at(np.float32([0.3, 0.9, 0.11]), 0.1).any()
    assert rejected_at(np.float32([0.05, 0.0, 0.1]), 0.1).all()


@pytest.mark.parametrize("level", [0.1, 0.9])
def test_of_what_has_p_one_nothing_is_rejected(level):
    assert not rejected_at(np.ones(50, np.float32), level).any()


@pytest.mark.slow
@pytest.mark.parametrize("nulls, others", [(60, 0), (45, 15)])
def test_the_share_of_false_discoveries_is_what_was_asked_for(nulls, others):
    """Level · nulls / units, as of independent p-values: with 128 phantoms these nearly are."""
    size, level, draws = 4, 0.1, 4000
    random = np.random.default_rng(others)
    weights = random.normal(size=(draws, nulls + others, size))
    weights[:, nulls:] += 2.5
    energy = np.float32((weights**2).sum(2))
    phantoms = np.float32(random.normal(size=(draws, NUMBER)))

    @jax.vmap
    def decide(energy, phantoms):
        sizes = jnp.full(energy.shape, size)
        return benjamini_hochberg(p_of(energy, sizes, phantoms), level)

    rejected = np.asarray(jax.jit(decide)(energy, phantoms))
    false = rejected[:, :nulls].sum(1) / np.maximum(rejected.sum(1), 1)
    standard_error = false.std() / np.sqrt(draws)
    assert abs(false.mean() - level * nulls / (nulls + others)) < STANDARD_ERRORS * standard_error
    assert rejected[:, nulls:].sum() > 0.9 * draws * others or not others


# ------------------------------------------------------------------------------------- phantoms


def test_phantoms_begin_at_zero_beside_the_params():
    params = {"layer0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
    more = with_phantoms(params, 40)
    assert more.keys() == {"layer0", "phantom"} and more["layer0"] is params["layer0"]
    assert more["phantom"].shape == (40,) and not more["phantom"].any() and "phantom" not in params
    assert with_phantoms(params)["phantom"].shape == (NUMBER,)


def test_no_dtype_is_promoted():
    energy = jnp.ones(5)
    with jax.numpy_dtype_promotion("strict"):
        p = jax.eval_shape(p_of, energy, jnp.ones(5, jnp.int32), PHANTOMS)
        rejected = jax.eval_shape(benjamini_hochberg, energy, 0.1)
    assert p.dtype == jnp.float32 and rejected.dtype == bool
