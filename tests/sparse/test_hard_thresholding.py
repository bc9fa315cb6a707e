"""Hard thresholding in an optax chain: against the operator, the published rules, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax.sparse import kth_magnitude
from nesht_jax.sparse.hard_thresholding import hard_thresholding, masked_moments, sparsify
from nesht_jax.sparse.projection import Projection, make_projection
from nesht_jax.sparse.top_k import hard_threshold, num_kept, top_k_mask
from nesht_jax.sparse.units import Units
from nesht_jax.types import SparseState, mask_of, sparsity_of

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    """Lets the search count fewer trials at once: the same masks, of programs compiled sooner."""
    monkeypatch.setattr(kth_magnitude, "TRIALS", 4)


NORMAL = np.random.default_rng(1).normal(size=12).astype(np.float32)
PARAMS = {
    "layer0": {"kernel": jnp.asarray(NORMAL.reshape(4, 3)), "bias": jnp.array([0.3, -2.0, 0.01])},
    "layer1": {"kernel": jnp.array([[0.9], [-0.2], [0.4]]), "bias": jnp.array([3.0])},
}
D = 19


def gradients(seed):
    normal = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: normal(size=leaf.shape).astype(np.float32), PARAMS)


def updated(optimizer, *steps, params=PARAMS, jit=False):
    """Params and state after updates by these gradients."""
    state, update = optimizer.init(params), jax.jit(optimizer.update) if jit else optimizer.update
    for step in steps:
        updates, state = update(step, state, params)
        params = optax.apply_updates(params, updates)
        yield params, state


def stepped(optimizer, *, steps=1, jit=False):
    """Params after each of some updates."""
    return [p for p, _ in updated(optimizer, *map(gradients, range(steps)), jit=jit)]


@functools.cache
def dense_step():
    """What the plain optimizer of ``chained`` makes of the params."""
    return stepped(optax.sgd(0.5))[0]


def nonzero(params):
    return int(sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(params)))


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def chained(**rule):
    return optax.chain(optax.sgd(0.5), hard_thresholding(**rule))


@pytest.mark.parametrize("size", [{"sparsity": 0.7}, {"keep": 6}])
def test_the_center_is_exactly_k_sparse_and_kept_entries_step_as_without(size):
    dense, (sparse,) = dense_step(), stepped(chained(**size))
    assert nonzero(sparse) == 6
    equal(sparse, hard_threshold(dense, 6))


@pytest.mark.bits
def test_kept_entries_take_the_plain_step_to_the_bit():
    """A difference of sums would round it away: the weights are far larger than the step."""
    params, transformation = jax.tree.map(lambda p: 1e4 * p, PARAMS), hard_thresholding(keep=6)
    updates, _ = transformation.update(gradients(0), transformation.init(params), params)
    kept = top_k_mask(jax.tree.map(jnp.add, params, gradients(0)), 6)
    expected = jax.tree.map(lambda k, g, p: np.where(k, g, -p), kept, gradients(0), params)
    equal(updates, expected)


def test_it_stays_k_sparse_behind_adam():
    path = stepped(optax.chain(optax.adam(0.1), hard_thresholding(sparsity=0.7)), steps=4)
    assert [nonzero(params) for params in path] == [6] * 4


def test_every_thresholds_the_first_update_and_each_so_many_after():
    path = stepped(chained(sparsity=0.7, every=3), steps=8, jit=True)
    sparse = [nonzero(params) == 6 for params in path]
    assert sparse == [True, False, False, True, False, False, True, False]
    equal(path[1], jax.tree.map(lambda p, g: p - np.float32(0.5) * g, path[0], gradients(1)))


def test_scope_layer_thresholds_each_layer_by_itself():
    dense, (sparse,) = dense_step(), stepped(chained(sparsity=0.7, scope="layer"))
    for layer, d in [("layer0", 15), ("layer1", 4)]:
        expected = hard_threshold(dense[layer], num_kept(d, 0.7))
        equal(sparse[layer], expected)


def test_scope_function_chooses_groups_and_leaves_the_rest_alone():
    def kernels_of_layer1(path):
        return "last" if path == ("layer1", "kernel") else None

    dense = dense_step()
    (sparse,) = stepped(chained(keep=1, scope=kernels_of_layer1))
    expected = {
        "layer0": dense["layer0"],
        "layer1": {**dense["layer1"], "kernel": hard_threshold(dense["layer1"]["kernel"], 1)},
    }
    equal(sparse, expected)


@pytest.mark.parametrize("scope", ["all", "layer"])
def test_exempt_biases_step_as_without(scope):
    dense = dense_step()
    (sparse,) = stepped(chained(keep=2, scope=scope, exempt_bias=True))
    for layer in ("layer0", "layer1"):
        np.testing.assert_array_equal(sparse[layer]["bias"], dense[layer]["bias"])
    kernels = [sparse[layer]["kernel"] for layer in ("layer0", "layer1")]
    assert nonzero(kernels) == {"all": 2, "layer": 4}[scope]


def test_stale_quantile_measures_before_the_step_and_cuts_after_it():
    dense, (sparse,) = dense_step(), stepped(chained(sparsity=0.7, rule="stale_quantile"))
    before = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)])
    bar = np.quantile(abs(before), 0.7)
    expected = jax.tree.map(lambda leaf: np.where(abs(leaf) >= bar, leaf, 0), dense)
    equal(sparse, expected)


def test_signed_quantile_measures_the_signed_weights():
    dense, (sparse,) = dense_step(), stepped(chained(sparsity=0.7, rule="signed_quantile"))
    after = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(dense)])
    bar = np.quantile(after, 0.7)
    expected = jax.tree.map(lambda leaf: np.where(abs(leaf) >= bar, leaf, 0), dense)
    equal(sparse, expected)


def test_signed_quantile_zeroes_about_twice_sparsity_minus_one():
    sparsity, d = 0.9, 20000
    params = np.random.default_rng(0).normal(size=d).astype(np.float32)
    projection = make_projection(sparsity=sparsity, rule="signed_quantile")
    zeroed = np.mean(projection(params) == 0)
    standard_error = np.sqrt(sparsity * (1 - sparsity) / d) * 3  # two quantiles, and their count
    assert abs(zeroed - (2 * sparsity - 1)) < STANDARD_ERRORS * standard_error


def test_keep_may_be_traced():
    @functools.partial(jax.vmap, in_axes=0)
    def sweep(keep):
        transformation = hard_thresholding(keep=keep)
        return transformation.update(gradients(0), transformation.init(PARAMS), PARAMS)[0]

    swept = jax.jit(sweep)(jnp.array([0, 3, D]))
    dense = jax.tree.map(jnp.add, PARAMS, gradients(0))
    for i, k in enumerate([0, 3, D]):
        sparse = jax.tree.map(lambda p, u, i=i: p + u[i], PARAMS, swept)
        equal(sparse, hard_threshold(dense, k) if k else jax.tree.map(jnp.zeros_like, dense))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({}, "one of them"),
        ({"sparsity": 0.5, "keep": 3}, "one of them"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": -0.5}, r"\[0, 1\)"),
        ({"sparsity": float("nan")}, r"\[0, 1\), got nan"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"keep": -1}, "keep must be at least 1, got -1"),
        ({"keep": np.int64(0)}, "keep must be at least 1, got np.int64"),
        ({"keep": {"all": 0}}, r"keep\['all'\] must be at least 1, got 0"),
        ({"sparsity": 0.5, "every": 0}, "every must be at least 1, got 0"),
        ({"keep": 3, "rule": "stale_quantile"}, "quantile"),
        ({"sparsity": 0.5, "rule": "topk"}, "signed_quantile, got 'topk'"),
        ({"sparsity": 0.5, "unit": "rows"}, "unit must be one of weight, row, got 'rows'"),
        ({"sparsity": 0.5, "scope": "layers"}, "all, layer or a function of the path, got"),
    ],
)
def test_impossible_values_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        hard_thresholding(**arguments)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"keep": 0.1}, "keep must be a positive integer, got 0.1"),
        ({"keep": 2.5}, "keep must be a positive integer, got 2.5"),
        ({"keep": "3"}, "keep must be a positive integer, got '3'"),
        ({"keep": True}, "keep must be a positive integer, got True"),
        ({"keep": {"all": 0.3}}, r"keep\['all'\] must be a positive integer, got 0.3"),
        ({"keep": 3, "every": 2.5}, "every must be a positive integer, got 2.5"),
        ({"keep": 3, "every": True}, "every must be a positive integer, got True"),
        ({"keep": 3, "begin": 1.5}, "begin must be an integer, got 1.5"),
        ({"keep": 3, "end": 2.5}, "end must be a positive integer, got 2.5"),
        ({"sparsity": "0.5"}, "got '0.5'"),
        ({"keep": 3, "exempt_bias": 1}, "exempt_bias must be True or False"),
    ],
)
def test_values_of_a_wrong_kind_are_refused(arguments, match, unchecked):
    with pytest.raises(TypeError, match=match):
        hard_thresholding(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("every", [10**6, 2**31 - 1, 2**40])
def test_a_single_decision_is_the_last(every):
    optimizer = hard_thresholding(keep=2, every=every, begin=5, end=100)
    params = jnp.float32([0, 0, 0, 0])
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(jnp.float32([4, 3, 2, 1]), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params, [80, 60, 0, 0])


@pytest.mark.parametrize("keep", [{"layer": 3}, {("layer0",): 3}])
def test_a_keep_that_lacks_a_group_is_refused_when_the_state_is_made(keep):
    transformation = hard_thresholding(keep=keep, scope="layer")
    with pytest.raises(ValueError, match=r"keep lacks group \('layer[01]',\); it has"):
        transformation.init(PARAMS)


def test_a_leaf_that_is_not_floating_point_is_refused_unless_it_is_left_alone():
    params = {"count": jnp.int32(7), "kernel": jnp.arange(1.0, 4)}
    with pytest.raises(TypeError, match="int32"):
        hard_thresholding(keep=1).init(params)
    projection = make_projection(keep=1, scope=lambda path: None if path == ("count",) else "all")
    equal(projection(params), {"count": 7, "kernel": np.float32([0, 0, 3])})


@pytest.mark.parametrize("keep", [np.int64(6), jnp.int32(6), {"all": np.int32(6)}])
def test_keep_may_be_an_integer_of_any_library(keep):
    (sparse,) = stepped(chained(keep=keep))
    assert nonzero(sparse) == 6


def test_a_keep_beyond_32_bits_keeps_all():
    equal(stepped(chained(keep=2**31))[0], dense_step())


def test_update_without_params_is_refused():
    transformation = hard_thresholding(keep=1)
    with pytest.raises(ValueError, match="params"):
        transformation.update(gradients(0), transformation.init(PARAMS))


# ----------------------------------------------------------------------------------- schedules


def injected(steps, **hyperparameters):
    """How many weights are not zero after each of some updates by the same gradient."""
    optimizer = optax.inject_hyperparams(hard_thresholding)(**hyperparameters)
    return [nonzero(p) for p, _ in updated(optimizer, *[gradients(0)] * steps, jit=True)]


def test_keep_follows_a_schedule():
    assert injected(3, keep=lambda count: jnp.maximum(9 - 3 * count, 4)) == [9, 6, 4]


def test_sparsity_follows_a_schedule_under_x64_too():
    schedule = optax.linear_schedule(0.0, 0.9, 2)
    with jax.enable_x64(True):
        assert injected(3, sparsity=schedule) == [num_kept(D, s) for s in (0, 0.45, 0.9)]


def test_every_may_be_traced():
    assert injected(4, keep=6, every=3) == [6, D, D, 6]


def test_a_scope_that_is_a_function_is_static():
    optimizer = optax.inject_hyperparams(hard_thresholding, static_args="scope")(
        keep=1, scope=lambda path: path[-1]
    )
    assert nonzero(stepped(optimizer)[0]) == 2


def test_a_schedule_of_keep_that_gives_floats_is_refused(unchecked):
    with pytest.raises(TypeError, match="keep must be a positive integer, got Array"):
        injected(1, keep=optax.linear_schedule(9, 3, 2))


# ---------------------------------------------------------------------------- mask and projection


@pytest.mark.parametrize("rule", ["top_k", "stale_quantile", "signed_quantile"])
@pytest.mark.parametrize(
    "scope, exempt_bias",
    [("all", False), ("layer", True), (lambda path: None if "layer0" in path else 1, False)],
)
def test_the_projection_is_the_transformation_of_no_step(rule, scope, exempt_bias):
    arguments = {"sparsity": 0.7, "scope": scope, "exempt_bias": exempt_bias, "rule": rule}
    transformation, still = hard_thresholding(**arguments), jax.tree.map(np.zeros_like, PARAMS)
    updates, state = transformation.update(still, transformation.init(PARAMS), PARAMS)
    projection = make_projection(**arguments)
    equal(projection(PARAMS), optax.apply_updates(PARAMS, updates))
    equal(projection.mask(PARAMS), state.mask)
    assert nonzero(state.mask) < D or rule == "signed_quantile"


def test_one_projection_serves_several_transformations():
    projection = make_projection(keep=6)
    (sparse,) = stepped(optax.chain(optax.sgd(0.5), sparsify(projection)))
    equal(sparse, stepped(chained(keep=6))[0])


def test_the_mask_is_of_the_last_update_and_all_alive_where_it_does_not_threshold():
    transformation = hard_thresholding(keep=6, every=3)
    all_alive = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), PARAMS)
    equal(transformation.init(PARAMS).mask, all_alive)
    steps, before = [gradients(seed) for seed in range(5)], PARAMS
    for i, (params, state) in enumerate(updated(transformation, *steps, jit=True)):
        after = jax.tree.map(np.add, before, steps[i])
        equal(state.mask, top_k_mask(after, 6) if i % 3 == 0 else all_alive)
        assert state.updates == i + 1
        before = params


def test_a_weight_may_live_at_zero():
    params = {"kernel": np.float32([[0, 0, 2], [0, 3, 0]])}
    mask = make_projection(keep=4).mask(params)
    assert mask["kernel"].tolist() == [[True, True, True], [False, True, False]]


def test_leaves_outside_every_group_live():
    mask = make_projection(keep=1, exempt_bias=True).mask(PARAMS)
    assert all(mask[layer]["bias"].all() for layer in PARAMS)
    assert nonzero(mask) == 1 + 4


@pytest.mark.parametrize("rule", ["stale_quantile", "signed_quantile"])
def test_a_quantile_among_nan_zeroes_nothing(rule):
    params = np.float32([1, np.nan, 3])
    np.testing.assert_array_equal(make_projection(sparsity=0.5, rule=rule)(params), params)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_zeros_are_exact_where_updates_have_another_dtype(dtypes, every):
    params, step = jnp.asarray(NORMAL, dtypes[0]), jnp.asarray(NORMAL[::-1] / 7, dtypes[1])
    transformation = hard_thresholding(keep=5, every=every)
    ((after, state),) = updated(transformation, step, params=params, jit=every > 1)
    assert nonzero(after) == 5
    np.testing.assert_array_equal(after != 0, state.mask)


@pytest.mark.parametrize("x64", [False, True])
def test_no_dtype_is_promoted(x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        for rule in ({"keep": 6}, {"sparsity": 0.7}, {"sparsity": 0.7, "every": 2}):
            transformation = hard_thresholding(**rule)
            state = jax.eval_shape(transformation.init, PARAMS)
            updates, after = jax.eval_shape(transformation.update, PARAMS, state, PARAMS)
            assert shapes_of(after) == shapes_of(state)
            assert shapes_of(updates) == shapes_of(PARAMS)


# ----------------------------------------------------------------------- moments of dead weights


def shapes_of(tree):
    """Structure, shapes and dtypes."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(leaf.shape, leaf.dtype) for leaf in leaves]


@functools.cache
def after_one_update(wrap):
    optimizer = wrap(optax.chain(optax.adam(0.1), hard_thresholding(keep=6)))
    return next(updated(optimizer, gradients(0)))


def plainly(optimizer):
    return optimizer


def above_a_half(group):
    return [jnp.abs(leaf) > 0.5 for leaf in group.after]


def cut_every(n):
    """Zeroes magnitudes of up to a half; it compiles in no time."""
    return sparsify(Projection(Units(lambda path: "all"), above_a_half), every=n)


@pytest.mark.parametrize("moment", ["mu", "nu"])
def test_moments_of_dead_weights_are_zero_and_the_others_untouched(moment):
    _, state = after_one_update(masked_moments)
    _, plain = after_one_update(plainly)
    kept = jax.tree.map(
        lambda mask, leaf: np.where(mask, leaf, 0), plain[-1].mask, optax.tree.get(plain, moment)
    )
    equal(optax.tree.get(state, moment), kept)
    assert nonzero(kept) == 6
    equal(state[-1], plain[-1])


def test_masked_moments_change_no_update():
    equal(after_one_update(masked_moments)[0], after_one_update(plainly)[0])


def test_a_weight_that_lives_at_zero_keeps_its_moments():
    """All weights end at exactly 0; ties let the first two live."""
    params = jnp.array([1.0, 2, 3, 5])
    optimizer = masked_moments(optax.chain(optax.trace(0.9), hard_thresholding(keep=2)))
    ((after, (trace, sparse)),) = updated(optimizer, -params, params=params)
    assert after.tolist() == [0, 0, 0, 0]
    assert sparse.mask.tolist() == [True, True, False, False]
    assert trace.trace.tolist() == [-1, -2, 0, 0]
    assert sparsity_of(mask_of((trace, sparse), params)) == 0.5


@pytest.mark.parametrize("wrap, returns", [(masked_moments, False), (plainly, True)])
def test_momentum_alone_moves_a_dead_weight_unless_it_is_forgotten(wrap, returns):
    """``every=2`` leaves update 2 dense, and its gradient is zero: only momentum can move."""
    optimizer = wrap(optax.chain(optax.adam(0.1), cut_every(2)))
    still = jax.tree.map(np.zeros_like, PARAMS)
    (cut, _), (params, _) = updated(optimizer, gradients(0), still, jit=True)
    assert nonzero(cut) < D
    assert nonzero(params) == (D if returns else nonzero(cut))


@pytest.mark.parametrize("wrap", [masked_moments, plainly])
def test_a_gradient_moves_a_dead_weight_and_adam_by_more_if_moments_are_forgotten(wrap):
    """Fresh moments are read with an old count: what ``masked_moments`` says of itself."""
    optimizer = wrap(optax.chain(optax.adam(1e-3), cut_every(50)))
    path = list(updated(optimizer, *[gradients(0)] * 52, jit=True))
    (_, cut), (params, dense) = path[50], path[51]
    steps = jax.tree.map(lambda p, mask: np.abs(p)[~mask] / 1e-3, params, cut[-1].mask)
    steps = np.concatenate(jax.tree.leaves(steps))
    fresh = (1 - 0.9) / np.sqrt(1 - 0.999) * np.sqrt(1 - 0.999**52) / (1 - 0.9**52)
    assert len(steps) > 0
    np.testing.assert_allclose(steps, fresh if wrap is masked_moments else 1, rtol=1e-3)
    assert nonzero(optax.tree.get(dense, "mu")) == D, "a dense update forgets nothing"


LABELS = {"layer0": "adam", "layer1": "sgd"}
OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "muon": optax.contrib.muon(0.1),
    "lion": optax.lion(0.1),
    "multi_transform": optax.multi_transform(
        {"adam": optax.adam(0.1), "sgd": optax.sgd(0.1, momentum=0.9)}, LABELS
    ),
    "masked": optax.masked(optax.adam(0.1), {"layer0": True, "layer1": False}),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_keeps_its_structure_and_shapes(name):
    optimizer = masked_moments(optax.chain(OPTIMIZERS[name], hard_thresholding(keep=6)))
    state = jax.eval_shape(optimizer.init, PARAMS)
    _, after = jax.eval_shape(optimizer.update, gradients(0), state, PARAMS)
    assert shapes_of(after) == shapes_of(state)


@pytest.mark.parametrize("name", ["adam", "adafactor", "multi_transform", "masked", "muon"])
def test_moments_are_found_wherever_the_optimizer_keeps_them(name):
    """Of layer0's bias, in states of ones, whose only dead weight is that bias's last."""
    chain = optax.chain(OPTIMIZERS[name], hard_thresholding(keep=6))
    shapes, _ = jax.eval_shape(chain.init, PARAMS)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), PARAMS)
    mask["layer0"]["bias"][2] = False
    resting = optax.GradientTransformation(chain.init, lambda u, state, params=None: (u, state))
    state = (ones, SparseState(jnp.int32(1), mask))
    _, (forgotten, sparse) = masked_moments(resting).update(PARAMS, state, PARAMS)
    equal(sparse.mask, mask)
    changed = [leaf for leaf in jax.tree.leaves(forgotten) if not np.all(leaf)]
    assert [leaf.tolist() for leaf in changed] == [[1, 1, 0]] * {"adafactor": 1}.get(name, 2)


def test_an_optimizer_without_a_mask_forgets_nothing():
    optimizer = optax.adam(0.1)
    ((_, state),) = updated(masked_moments(optimizer), gradients(0))
    ((_, plain),) = updated(optimizer, gradients(0))
    equal(state, plain)


def test_masked_moments_hand_on_what_the_optimizer_wants_besides():
    plateau = optax.contrib.reduce_on_plateau()
    optimizer = masked_moments(optax.chain(plateau, hard_thresholding(keep=6)))
    state = jax.eval_shape(optimizer.init, PARAMS)
    _, after = jax.eval_shape(
        lambda *args: optimizer.update(*args, value=jnp.float32(1)), gradients(0), state, PARAMS
    )
    assert shapes_of(after) == shapes_of(state)


@pytest.mark.parametrize(
    "chosen", [{}, {"rule": "stale_quantile"}, {"rule": "signed_quantile"}, {"unit": "row"}]
)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_leaf_of_no_weights_is_left(chosen, shape):
    params = {"empty": {"kernel": jnp.zeros(shape)}, "full": {"kernel": jnp.arange(6.0)[:, None]}}
    optimizer = hard_thresholding(sparsity=0.5, scope="layer", **chosen)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    assert updates["empty"]["kernel"].shape == shape
    kept = np.count_nonzero(params["full"]["kernel"] + updates["full"]["kernel"])
    assert kept == 3
