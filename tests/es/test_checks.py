"""What is wrong is refused by name, and nothing ambient changes a result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import rankdata

from nesht_jax.es import shaping
from nesht_jax.es.nes import generation_keys, nesht
from nesht_jax.es.noise import perturbation
from nesht_jax.sparse.hard_thresholding import hard_thresholding

pytestmark = pytest.mark.usefixtures("unchecked")

KEY = jax.random.key(5)
FITNESS = jnp.array([3.0, -1.0, 0.5, 8.0, 2.0, 2.0, -6.0, 1.0])


def algorithm_of(optimizer=None, *, num_members=8, sigma=0.1, **options):
    optimizer = optimizer or optax.sgd(0.5)
    return nesht(num_members=num_members, sigma=sigma, optimizer=optimizer, **options)


# ------------------------------------------------------------------------------------ fitness


@pytest.mark.parametrize("fitness", [FITNESS[:4], jnp.ones(16), jnp.ones((8, 1)), 1.0, np.ones(0)])
def test_fitness_is_one_number_a_member(fitness):
    algorithm = algorithm_of()
    shape = str(list(np.shape(fitness)))
    with pytest.raises(ValueError, match="one number a member") as error:
        algorithm.tell(algorithm.init(KEY, jnp.zeros(3)), fitness)
    assert str(error.value).endswith(f"[8], got shape {shape}")


def test_complex_fitness_is_refused():
    algorithm = algorithm_of()
    with pytest.raises(TypeError, match="fitness must be real numbers, got complex64"):
        algorithm.tell(algorithm.init(KEY, jnp.zeros(3)), FITNESS.astype(complex))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int64, np.float64, jnp.float16, jnp.bfloat16])
def test_fitness_of_any_real_dtype_is_single_precision(dtype):
    algorithm = algorithm_of()
    state = algorithm.init(KEY, jnp.zeros(3))
    whole = np.array([3, -1, 0, 8, 2, 2, -6, 1])
    after, info = algorithm.tell(state, whole.astype(dtype))
    expected, _ = algorithm.tell(state, jnp.asarray(whole, jnp.float32))
    np.testing.assert_array_equal(after.params, expected.params)
    assert info.fitness_mean.dtype == jnp.float32


@pytest.mark.slow
def test_fitness_beyond_32_bits_is_not_wrapped():
    algorithm = algorithm_of(num_members=2)
    state = algorithm.init(KEY, jnp.zeros(3))
    large = np.array([3_000_000_000, 1])
    after, info = algorithm.tell(state, large)
    expected, _ = algorithm.tell(state, large.astype(np.float32))
    np.testing.assert_array_equal(after.params, expected.params)
    assert info.fitness_max == np.float32(3e9)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_utilities_of_half_precision_fitness_are_exact_ranks(dtype):
    fitness = jnp.arange(4096, 0, -1).astype(dtype)
    utility = np.asarray(shaping.centered_rank(fitness), np.float64)
    expected = (rankdata(np.float64(fitness)) - 1) / 4095 - 0.5
    np.testing.assert_allclose(utility, expected, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e-15, 1.0, 1e15, 1e20, 1e30, 3e38])
def test_standardized_fitness_does_not_depend_on_its_unit(scale):
    raw = np.random.default_rng(0).normal(size=8)
    raw = raw / abs(raw).max()
    expected = (raw - raw.mean()) / raw.std()
    told = shaping.standardize(jnp.float32(raw * scale))
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)


def test_info_survives_fitness_whose_square_overflows():
    algorithm = algorithm_of()
    _, info = algorithm.tell(algorithm.init(KEY, jnp.zeros(3)), FITNESS * 1e30)
    np.testing.assert_allclose(info.fitness_mean, FITNESS.mean() * 1e30, rtol=1e-5)
    np.testing.assert_allclose(info.fitness_std, FITNESS.std() * 1e30, rtol=1e-5)


# ------------------------------------------------------------------------------------- params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n": jnp.int32(7), "w": jnp.ones(3)}, r"\['n'\] is int32"),
        ({"w": jnp.ones(3, jnp.complex64)}, r"\['w'\] is complex64"),
        ({"s": 1.0}, r"\['s'\] is float: 1.0"),
        (jnp.arange(3), "params is int32"),
    ],
)
def test_params_are_floating_point_arrays(params, message):
    with pytest.raises(TypeError, match=message):
        algorithm_of().init(KEY, params)


@pytest.mark.parametrize("params", [{}, [], {"b": None}, jnp.zeros((0,))])
def test_params_hold_a_weight(params):
    with pytest.raises(ValueError, match="at least one weight"):
        algorithm_of().init(KEY, params)


def test_params_of_numpy_are_taken():
    state = algorithm_of().init(KEY, {"w": np.ones(3, np.float32), "b": None})
    assert isinstance(state.params["w"], jax.Array) and state.params["b"] is None


# ------------------------------------------------------------------------ sigma and optimizer


@pytest.mark.parametrize(
    "sigma",
    [0.0, -0.1, np.nan, np.inf, np.float32(0), np.array(-1.0), jnp.float32(-1), np.ones(2)],
)
def test_sigma_is_positive(sigma):
    with pytest.raises(ValueError, match="sigma must be one number, positive and finite, got"):
        algorithm_of(sigma=sigma)


def test_sigma_is_per_weight_or_per_output():
    with pytest.raises(ValueError, match="sigma_per must be one of weight, output, got 'layer'"):
        algorithm_of(sigma_per="layer")
    with pytest.raises(ValueError, match="rank must be None where sigma is per output, got 1"):
        algorithm_of(sigma_per="output", rank=1)


@pytest.mark.parametrize("optimizer", [optax.adam, 0.1])
def test_an_optimizer_is_a_transformation(optimizer):
    with pytest.raises(TypeError, match="optimizer must be an optax transformation"):
        algorithm_of(optimizer)


def test_rank_and_a_support_do_not_go_together():
    optimizer = optax.chain(optax.sgd(0.1), hard_thresholding(keep=2, explore=0.5))
    with pytest.raises(ValueError, match="rank must be None where not all weights are perturbed"):
        algorithm_of(optimizer, rank=1).init(KEY, jnp.zeros(3))
    dense = optax.chain(optax.sgd(0.1), hard_thresholding(keep=2))
    algorithm_of(dense, rank=1).init(KEY, jnp.zeros(3))


def test_an_optimizer_that_wants_the_value_gets_the_loss():
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append(value)
        return updates, state

    recording = optax.GradientTransformationExtraArgs(lambda params: (), update)
    algorithm = algorithm_of(recording)
    algorithm.tell(algorithm.init(KEY, jnp.zeros(3)), FITNESS)
    np.testing.assert_allclose(seen, [-FITNESS.mean()], rtol=1e-6)


def test_an_optimizer_that_wants_a_key_gets_one_of_its_own_every_generation():
    seen = []

    def update(updates, state, params=None, *, key, **extra):
        seen.append(key)
        return updates, state

    algorithm = algorithm_of(optax.GradientTransformationExtraArgs(lambda params: (), update))
    state = algorithm.init(KEY, jnp.zeros(3))
    used = [KEY]
    for _ in range(2):
        used += generation_keys(state)
        state, _ = algorithm.tell(state, FITNESS)
    words = {tuple(jax.random.key_data(key).tolist()) for key in [*seen, *used]}
    assert len(seen) == 2 and len(words) == 7


# ---------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize(
    ("optimizer", "params", "fitness"),
    [
        (optax.adam(0.1), jnp.ones(4, jnp.float16), jnp.ones(8)),
        (optax.rmsprop(0.1), jnp.ones(4, jnp.float16), jnp.ones(8)),
        (optax.sgd(lambda count: jnp.float32(jnp.nan)), jnp.ones(4), FITNESS),
        (optax.sgd(np.inf), jnp.ones(4), jnp.ones(8)),
        (optax.sgd(1.0, momentum=3e38), jnp.ones(4), FITNESS),
    ],
    ids=["adam in half precision", "rmsprop", "a schedule", "an infinite step", "momentum"],
)
def test_an_update_that_leads_to_what_is_not_finite_is_skipped(optimizer, params, fitness):
    algorithm = algorithm_of(optimizer)
    tell = jax.jit(algorithm.tell)
    state = algorithm.init(KEY, params)
    skipped = 0
    for _ in range(4):
        before = state
        state, info = tell(state, fitness)
        skipped += int(info.skipped)
        for leaf in jax.tree.leaves((state.params, state.optimizer)):
            assert jnp.isfinite(leaf).all()
        if info.skipped:
            np.testing.assert_array_equal(state.params, before.params)
    assert skipped and state.generation == 4


def test_a_state_that_begins_at_infinity_is_no_failure():
    """As the best value of ``reduce_on_plateau``."""
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    algorithm = algorithm_of(optimizer)
    state, info = jax.jit(algorithm.tell)(algorithm.init(KEY, jnp.zeros(3)), FITNESS)
    assert not info.skipped and (state.params != 0).all()


# --------------------------------------------------------------------------------- dead weights


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("explore", [1, 0.0])
def test_dead_weights_are_perturbed_unless_a_support_leaves_them_out(explore, mirrored):
    optimizer = optax.chain(optax.sgd(0.1), hard_thresholding(keep=2, explore=explore))
    algorithm = algorithm_of(optimizer, mirrored=mirrored)
    state = algorithm.init(KEY, {"w": jnp.arange(1.0, 7.0)})
    state, info = jax.jit(algorithm.tell)(state, FITNESS)
    assert info.sparsity == np.float32(4 / 6)
    center = np.asarray(state.params["w"])
    members = np.asarray(algorithm.ask(state)["w"])
    assert (center != 0).sum() == 2 and (members[:, center != 0] != center[center != 0]).all()
    assert (members[:, center == 0] != 0).all() == bool(explore)
    assert (members[:, center == 0] == 0).all() != bool(explore)


def test_sparsity_is_read_from_the_mask_and_not_from_zeros():
    """A dense chain has sparsity 0, though all its weights begin at zero."""
    algorithm = algorithm_of()
    _, info = algorithm.tell(algorithm.init(KEY, jnp.zeros(4)), jnp.ones(8))
    assert info.sparsity == 0


# -------------------------------------------------------------------------- ambient settings


def one_generation(params):
    algorithm = algorithm_of(optax.chain(optax.adam(0.1), hard_thresholding(keep=3)))
    state = algorithm.init(jax.random.key(7, impl="threefry2x32"), params)
    members = algorithm.ask(state)
    state, info = jax.jit(algorithm.tell)(state, FITNESS)
    return members, state.params, info.gradient_norm


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 2), (5,), ()])
def test_double_precision_as_a_default_changes_nothing(shape):
    params = jnp.ones(shape, jnp.float32)
    plain = one_generation(params)
    with jax.enable_x64(True):
        double = one_generation(params)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(double), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_array_equal(plain[0], double[0])


def test_params_in_double_precision_stay_so():
    with jax.enable_x64(True):
        _, params, _ = one_generation(jnp.ones(5, jnp.float64))
        assert params.dtype == jnp.float64


def test_another_default_kind_of_key_changes_nothing():
    plain = one_generation(jnp.ones(5))
    with jax.default_prng_impl("rbg"):
        other = one_generation(jnp.ones(5))
    jax.tree.map(np.testing.assert_array_equal, plain, other)


def test_our_own_functions_promote_no_dtype_by_accident():
    with jax.numpy_dtype_promotion("strict"):
        algorithm = algorithm_of()
        state = algorithm.init(KEY, jnp.ones(4))
        jax.eval_shape(algorithm.ask, state)
        jax.eval_shape(lambda: perturbation(KEY, 0, {"w": jnp.ones((9, 9))}, rank=1))
