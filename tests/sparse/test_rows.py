"""Units: whole rows and filters by an oracle in numpy, and which of them are significant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from nesht_jax.sparse import kth_magnitude
from nesht_jax.sparse.hard_thresholding import hard_thresholding
from nesht_jax.sparse.projection import make_projection


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    """Lets the search count fewer trials at once: the same masks, of programs compiled sooner."""
    monkeypatch.setattr(kth_magnitude, "TRIALS", 4)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {
    "layer0": {"kernel": normal(0, 7, 3), "bias": np.float32([9, 0, -9])},
    "layer1": {"kernel": normal(1, 3, 2), "bias": np.float32([0, 8])},
}


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def oracle(kernels, k):
    """Masks of the k rows of largest norm over all kernels; of equal ones the first."""
    rows = [kernel.reshape(len(kernel), -1).astype(np.float64) for kernel in kernels]
    norms = np.concatenate([np.sqrt((row**2).sum(1)) for row in rows])
    lives = np.zeros(len(norms), bool)
    lives[np.argsort(-norms, kind="stable")[:k]] = True
    parts = np.split(lives, np.cumsum([len(row) for row in rows])[:-1])
    return [
        np.broadcast_to(part.reshape(-1, *[1] * (kernel.ndim - 1)), kernel.shape)
        for part, kernel in zip(parts, kernels, strict=True)
    ]


def rows_of(mask):
    """Which rows of a kernel live, where every row lives or dies as one."""
    flat = np.asarray(mask).reshape(len(mask), -1)
    assert (flat.all(1) == flat.any(1)).all()
    return flat.all(1).tolist()


# ---------------------------------------------------------------------------------- the k largest


@pytest.mark.parametrize("k", [1, 3, 7, 9])
@pytest.mark.parametrize("shape", [(7, 3), (7, 1), (7, 2, 2, 4)])
def test_the_k_rows_of_largest_norm_live(shape, k):
    kernel = normal(2, *shape)
    mask = make_projection(keep=k, unit="row").mask({"kernel": kernel})["kernel"]
    np.testing.assert_array_equal(mask, *oracle([kernel], k))
    assert sum(rows_of(mask)) == min(k, 7)


def test_ties_go_to_the_first_rows():
    kernel = np.float32([[0, 1], [3, 4], [-5, 0], [4, -3], [0, 0]])
    mask = make_projection(keep=2, unit="row").mask(kernel)
    assert rows_of(mask) == [False, True, True, False, False]


def test_filters_live_by_input_channel():
    """A channel leads: it lives by the sum over its height, width and outputs."""
    kernel = np.zeros((3, 2, 2, 4), np.float32)
    kernel[0, 0, 0, 0], kernel[1], kernel[2, 1, 1] = 1.9, 0.5, 0.9  # norms 1.9, 2 and 1.8
    assert rows_of(make_projection(keep=1, unit="row").mask(kernel)) == [False, True, False]
    assert rows_of(make_projection(keep=2, unit="row").mask(kernel)) == [True, True, False]


@pytest.mark.parametrize("k", [2, 5])
def test_kernels_of_one_group_compete_and_biases_are_left_alone(k):
    mask = make_projection(keep=k, unit="row").mask(PARAMS)
    expected = oracle([PARAMS["layer0"]["kernel"], PARAMS["layer1"]["kernel"]], k)
    equal([mask["layer0"]["kernel"], mask["layer1"]["kernel"]], expected)
    assert mask["layer0"]["bias"].all() and mask["layer1"]["bias"].all()
    assert sum(map(len, expected)) == 10 and k == sum(sum(rows_of(part)) for part in expected)


def test_scope_layer_counts_the_rows_of_each_layer():
    keep = {("layer0",): 4, ("layer1",): 1}
    mask = make_projection(keep=keep, unit="row", scope="layer").mask(PARAMS)
    for layer, k in [("layer0", 4), ("layer1", 1)]:
        kernel = PARAMS[layer]["kernel"]
        np.testing.assert_array_equal(mask[layer]["kernel"], *oracle([kernel], k))


@pytest.mark.parametrize("rows, sparsity, k", [(100, 0.29, 71), (10, 0.7, 3), (201, 0.9, 21)])
def test_the_fraction_is_of_rows(rows, sparsity, k):
    mask = make_projection(sparsity=sparsity, unit="row").mask(normal(3, rows, 2))
    assert sum(rows_of(mask)) == k


def test_a_sweep_over_k_is_a_vmap():
    def masks(keep):
        return make_projection(keep=keep, unit="row").mask(PARAMS)

    swept = jax.jit(jax.vmap(masks))(jnp.arange(1, 12))
    kernels = [PARAMS[layer]["kernel"] for layer in PARAMS]
    for i, k in enumerate(range(1, 12)):
        found = [swept[layer]["kernel"][i] for layer in PARAMS]
        equal(found, oracle(kernels, k))


@pytest.mark.parametrize(
    "dtype, scale", [("bfloat16", 1.0), ("float16", 1.0), ("float16", 1e-4), ("float16", 512.0)]
)
def test_rows_in_half_precision_are_measured_in_single(dtype, scale):
    """Their norms differ by 0.3 per cent, and their squares may leave float16."""
    rows = np.ones((3, 16), np.float32)
    rows[1, 5] = 1.046875
    kernel = jnp.asarray(scale * rows, dtype)
    mask = make_projection(keep=1, unit="row").mask(kernel)
    assert rows_of(mask) == [False, True, False]


@functools.cache
def after_two_updates(**rule):
    """Params after two updates, and their state; with no rule those of the plain optimizer."""
    thresholding = hard_thresholding(**rule) if rule else optax.identity()
    optimizer = optax.chain(optax.adam(0.3), thresholding)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    for seed in (4, 5):
        step = jax.tree.map(lambda leaf, seed=seed: normal(seed, *leaf.shape), params)
        updates, state = optimizer.update(step, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_the_center_has_k_rows_and_biases_step_as_without():
    params, state = after_two_updates(keep=4, unit="row")
    dense, _ = after_two_updates()
    for layer in PARAMS:
        np.testing.assert_array_equal(params[layer]["bias"], dense[layer]["bias"])
    lives = [np.asarray(params[layer]["kernel"]) != 0 for layer in PARAMS]
    equal(lives, [state[-1].mask[layer]["kernel"] for layer in PARAMS])
    assert sum(sum(rows_of(mask)) for mask in lives) == 4


# ----------------------------------------------------------------------------------- significance

PHANTOMS = normal(6, 128)


def significant(params, phantoms=PHANTOMS, *, unit, **options):
    projection = make_projection(rule="significance", level=0.1, unit=unit, **options)
    return projection.mask({**params, "phantom": jnp.asarray(phantoms)})


@pytest.mark.parametrize("shape", [(6, 8), (6, 2, 2, 2)])
def test_rows_that_are_too_large_for_chance_live(shape):
    """Of their weights none is, by itself."""
    kernel = np.full(shape, 0.7, np.float32)
    kernel[[1, 4]] = -1.9
    mask = significant({"kernel": kernel}, unit="row")
    assert rows_of(mask["kernel"]) == [False, True, False, False, True, False]
    assert not mask["phantom"].any()
    weights = significant({"kernel": kernel}, unit="weight")["kernel"]
    assert (weights == (abs(kernel) == abs(kernel).max())).all()  # the largest, all of them


def test_weights_that_are_too_large_for_chance_live():
    kernel = normal(8, 5, 4)
    kernel[2, 3], kernel[0, 1] = 6, -7
    mask = significant({"kernel": kernel}, unit="weight")
    assert np.argwhere(mask["kernel"]).tolist() == [[0, 1], [2, 3]]


def test_rows_are_judged_by_their_own_number_of_weights():
    """The same energy, 40, is expected of 36 weights and not of 4."""
    params = {"a": jnp.full((2, 36), np.sqrt(40 / 36)), "b": jnp.full((2, 4), np.sqrt(40 / 4))}
    mask = significant(params, unit="row")
    assert rows_of(mask["a"]) == [False, False] and rows_of(mask["b"]) == [True, True]


def test_groups_are_judged_apart_and_biases_left_alone():
    """Beside 40 others of no effect two moderate weights are not significant; alone they are."""
    params = {
        "layer0": {"kernel": 0.5 * normal(9, 10, 4), "bias": jnp.zeros(2)},
        "layer1": {"kernel": jnp.array([[2.4, 2.3]])},
    }
    for scope, lives in [("all", (0, 1)), ("layer", (1, 2))]:
        mask = significant(params, unit="weight", exempt_bias=True, scope=scope)
        assert tuple(mask[layer]["kernel"].sum() for layer in ("layer0", "layer1")) == lives
        assert mask["layer0"]["bias"].all()


@pytest.mark.parametrize("phantoms", [PHANTOMS, np.zeros(8, np.float32)])
def test_where_nothing_is_significant_the_largest_lives(phantoms):
    kernel = normal(10, 6, 4)
    mask = significant({"kernel": kernel}, phantoms, unit="row")
    largest = np.linalg.norm(kernel, axis=1).argmax()
    assert np.flatnonzero(rows_of(mask["kernel"])).tolist() == [largest]


def of_p(p, rows, size=4):
    """A kernel whose row r has this p by itself, beside as many phantoms of variance 1."""
    energy = size * stats.f.isf(np.asarray(p), size, 128)
    kernel = np.zeros((rows, size), np.float32)
    kernel[: len(p), 0] = np.sqrt(energy)
    return {"kernel": jnp.asarray(kernel), "phantom": jnp.ones(128)}


def test_what_is_promising_stays_on_trial_and_does_not_live():
    """Of 100 units the first two are below their bars, .001 and .002; p of the third is not."""
    projection = make_projection(rule="significance", level=0.1, unit="row")
    params = of_p([1e-4, 1e-3, 0.04, 0.06, 0.5], 100)
    for judged, lives in [
        (projection.mask(params), [0, 1]),
        (projection.stays(params, params, None), [0, 1, 2]),
        (projection.stays(params, params, projection.walk(params)), [0, 1, 2]),
    ]:
        assert np.flatnonzero(rows_of(judged["kernel"])).tolist() == lives


def test_what_has_walked_longer_must_have_come_farther():
    """Three of four have the same energy; for one that has walked longer it is no wonder."""
    params = of_p([1e-3, 1e-3, 1e-3, 0.9], 4)
    projection = make_projection(rule="significance", level=0.1, unit="row")
    assert rows_of(projection.mask(params)["kernel"]) == [True, True, True, False]
    walk = {"kernel": jnp.array([0.0, 5.0, 0.0, 0.0]), "phantom": jnp.zeros(())}
    assert rows_of(projection.mask(params, walk=walk)["kernel"]) == [True, False, True, False]


@pytest.mark.parametrize("end", [None, 2, 1])
def test_the_last_decision_takes_only_what_lives(end):
    params = of_p([1e-4, 1e-4, 1e-3, 0.04, 0.06, 0.5], 100)
    after, _ = thresholded(params, end=end)
    kept = [0, 1, 2] if end == 1 else [0, 1, 2, 3]
    assert np.flatnonzero(after["kernel"].any(1)).tolist() == kept


def thresholded(params, state=None, **options):
    """Params after one update of nothing, and the state."""
    transformation = hard_thresholding(rule="significance", level=0.1, unit="row", **options)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, state = transformation.update(still, state or transformation.init(params), params)
    return optax.apply_updates(params, updates), state


FEW, ENOUGH = of_p([1e-4, 1e-3, 0.04, 0.5], 100), of_p([1e-4, 1e-4, 1e-3, 0.5], 100)


def test_what_is_significant_begins_sooner():
    """From update begin / 4 on, once there are three units; phantoms walk on until then."""
    state = None
    for update in range(4):
        same, state = thresholded(ENOUGH if update < 2 else FEW, state, begin=8)
        equal(same, ENOUGH if update < 2 else FEW)
        assert not any(leaf.any() for leaf in jax.tree.leaves(state.walk))
        assert all(leaf.all() for leaf in jax.tree.leaves(state.mask))
    after, state = thresholded(ENOUGH, state, begin=8)
    assert np.flatnonzero(after["kernel"].any(1)).tolist() == [0, 1, 2]
    assert not after["phantom"].any()
    after, _ = thresholded(of_p([1e-6, 0.5, 0.5, 0.5], 100), state, begin=8)
    assert np.flatnonzero(after["kernel"].any(1)).tolist() == [0]  # few are enough by now


def test_what_is_not_begins_when_it_must():
    state = None
    for _ in range(8):
        same, state = thresholded(FEW, state, begin=8)
        equal(same, FEW)
    after, _ = thresholded(FEW, state, begin=8)
    assert np.flatnonzero(after["kernel"].any(1)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("unit", ["weight", "row"])
def test_rows_at_zero_are_not_tested(unit):
    """Of a thousand rows only two have moved, and one of them is significant."""
    kernel = np.zeros((1000, 4), np.float32)
    kernel[3], kernel[500] = 4, 0.1
    mask = significant({"kernel": kernel}, unit=unit)
    assert np.flatnonzero(rows_of(mask["kernel"])).tolist() == [3]


def test_no_dtype_is_promoted():
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), PARAMS)
        with jax.numpy_dtype_promotion("strict"):
            mask = jax.eval_shape(
                functools.partial(significant, unit="row", phantoms=jnp.ones(8, dtype)), params
            )
        assert all(leaf.dtype == bool for leaf in jax.tree.leaves(mask))


# --------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"sparsity": 0.5, "unit": "rows"}, "unit must be one of weight, row, got 'rows'"),
        ({"sparsity": 0.5, "unit": "row", "rule": "stale_quantile"}, "rows go with top_k"),
        ({"sparsity": 0.5, "unit": "row", "rule": "signed_quantile"}, "rows go with top_k"),
        ({"keep": 3, "level": 0.1}, "level goes with rule significance, got 0.1 with rule top_k"),
        ({"level": 0.1}, "level goes with rule significance"),
        ({"rule": "significance"}, "give level"),
        ({"rule": "significance", "keep": 3}, "give level"),
        ({"rule": "significance", "level": 0.1, "keep": 3}, "neither sparsity nor keep"),
        ({"rule": "significance", "level": 0.1, "sparsity": 0.5}, "neither sparsity nor keep"),
        ({"rule": "significance", "level": 0.0}, r"level must be in \(0, 1\), got 0.0"),
        ({"rule": "significance", "level": 1}, r"level must be in \(0, 1\), got 1"),
        ({"rule": "significance", "level": float("nan")}, r"level must be in \(0, 1\), got nan"),
        ({"rule": "significance", "level": np.float32(2)}, r"level must be in \(0, 1\), got 2"),
    ],
)
@pytest.mark.parametrize("make", [make_projection, hard_thresholding])
def test_impossible_values_are_refused(make, arguments, match):
    with pytest.raises(ValueError, match=match):
        make(**arguments)


def test_params_without_phantoms_are_refused_when_the_state_is_made():
    transformation = hard_thresholding(rule="significance", level=0.1, unit="row")
    with pytest.raises(ValueError, match="rule significance needs phantoms"):
        transformation.init(PARAMS)
