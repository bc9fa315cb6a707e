"""Units: whole rows and filters by an oracle in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax.policy.convolution import CONVOLUTIONS
from nesht_jax.policy.policy import make_policy
from nesht_jax.run.optimizer import build_projection, build_selection
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.sparse import kth_magnitude
from nesht_jax.sparse.hard_thresholding import hard_thresholding
from nesht_jax.sparse.projection import make_projection
from nesht_jax.sparse.significance import NUMBER, with_phantoms
from nesht_jax.types import PHANTOM, Task


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


def test_filters_live_by_input_channel_where_it_leads():
    """It lives by the sum over its height, width and outputs."""
    kernel = np.zeros((3, 2, 2, 4), np.float32)
    kernel[0, 0, 0, 0], kernel[1], kernel[2, 1, 1] = 1.9, 0.5, 0.9  # norms 1.9, 2 and 1.8
    assert rows_of(make_projection(keep=1, unit="row").mask(kernel)) == [False, True, False]
    assert rows_of(make_projection(keep=2, unit="row").mask(kernel)) == [True, True, False]


@pytest.fixture(scope="module")
def convolutional():
    """A policy for images of three channels, and its params."""
    scores, shape = np.full(2, np.inf, np.float32), (3, 36, 36)
    task = Task(
        name="test/image",
        options={},
        observation_size=int(np.prod(shape)),
        image_shape=shape,
        action_low=-scores,
        action_high=scores,
        discrete=True,
        horizon=None,
    )
    policy = make_policy(task, hidden=(5,), convolutions=CONVOLUTIONS["dqn2013"])
    return policy, policy.init(jax.random.key(1))


def with_filters(params, path, filters):
    """The params with filters [channels, size, size, features] in place of those at a path."""
    layer, name = path.split("/")
    matrix = jnp.asarray(filters.reshape(-1, filters.shape[-1]))
    return params | {layer: params[layer] | {name: matrix}}


@pytest.mark.slow
def test_the_channels_of_an_image_are_kept_as_a_whole(convolutional):
    """Filters of policies are matrices: the rows of one channel lie side by side."""
    policy, params = convolutional
    first = policy.layers[0]
    filters = normal(4, *first.shape)
    filters[1] *= 1.1
    chosen = SparsityConfig(unit="row", keep=1)
    projection = build_projection(chosen, policy.layers, params)
    assert projection is not None
    mask = projection.mask(with_filters(params, first.kernel, filters))
    layer, name = first.kernel.split("/")
    found = np.asarray(mask.pop(layer)[name]).reshape(first.shape)
    np.testing.assert_array_equal(found, *oracle([filters], 1))
    assert found[1].all() and all(leaf.all() for leaf in jax.tree.leaves(mask))


@pytest.mark.slow
def test_the_channels_of_an_image_are_selected_as_a_whole(convolutional):
    """Weights of one channel walk three times as far as phantoms, the others less far."""
    policy, params = convolutional
    first = policy.layers[0]
    filters = normal(4, *first.shape) * np.float32([0.8, 3, 0.8]).reshape(3, 1, 1, 1)
    zeros = with_phantoms(jax.tree.map(jnp.zeros_like, params))
    steps = with_filters(zeros, first.kernel, filters) | {PHANTOM: jnp.asarray(normal(5, NUMBER))}
    optimizer = build_selection(SparsityConfig(method="selection", unit="row"), policy.layers)
    state = optimizer.init(zeros)
    _, state = optimizer.update(steps, state, zeros, key=jax.random.key(0))
    layer, name = first.kernel.split("/")
    assert state.walk[layer][name].shape == (3,)
    lives = np.asarray(state.mask[layer][name]).reshape(3, -1)
    np.testing.assert_array_equal(lives.all(1), [False, True, False])
    np.testing.assert_array_equal(lives.any(1), lives.all(1))


@pytest.mark.parametrize(
    ("channels", "error", "match"),
    [
        ({"kernel": 4}, ValueError, "kernel has 7 rows, not those of 4 channels"),
        ({"kernel": 0}, ValueError, r"channels\['kernel'\] must be at least 1, got 0"),
        ({"kernel": 3.5}, TypeError, r"channels\['kernel'\] must be a positive integer, got 3.5"),
    ],
)
def test_channels_that_do_not_fit_are_refused(channels, error, match, unchecked):
    with pytest.raises(error, match=match):
        make_projection(keep=1, unit="row", channels=channels).mask({"kernel": normal(2, 7, 3)})


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


# --------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"sparsity": 0.5, "unit": "rows"}, "unit must be one of weight, row, got 'rows'"),
        ({"sparsity": 0.5, "unit": "row", "rule": "stale_quantile"}, "rows go with top_k"),
        ({"sparsity": 0.5, "unit": "row", "rule": "signed_quantile"}, "rows go with top_k"),
    ],
)
@pytest.mark.parametrize("make", [make_projection, hard_thresholding])
def test_impossible_values_are_refused(make, arguments, match):
    with pytest.raises(ValueError, match=match):
        make(**arguments)
