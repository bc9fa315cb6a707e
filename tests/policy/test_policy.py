"""Policies: actions within bounds, refusals, segment norms, and float32 whatever JAX's settings."""

import inspect
import itertools
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_helpers import choice_task, image_task, vector_task

from nesht_jax.policy.convolution import CONVOLUTIONS, Convolution
from nesht_jax.policy.normalize import by_observation, by_running_moments, unnormalized
from nesht_jax.policy.policy import blindness, make_policy, segment_norms, unreachable
from nesht_jax.types import Layer, LowRank, Moments, Policy

KEY = jax.random.key(0)
INF = np.inf
LOW, HIGH = np.float32([-0.4, 0.0, -3.0]), np.float32([0.4, 1.0, -1.0])


def outputs(task, output, *plain):
    """Actions of a policy whose last layer gives these numbers, the same for every component."""
    policy = make_policy(task, output=output)
    bias = jnp.zeros(task.num_actions)
    kernel = jnp.zeros((task.num_features, task.num_actions))
    ones = jnp.ones(task.num_features)
    return [
        np.asarray(policy.apply({"layer0": {"kernel": kernel, "bias": bias + x}}, None, ones))
        for x in plain
    ]


# --------------------------------------------------------------------------------------- actions


def test_the_linear_policy_is_one_matrix_and_tanh():
    policy, x = make_policy(vector_task(4), output="tanh"), jnp.array([1.0, -2.0, 0.5, 0.1])
    params = policy.init(KEY)
    params["layer0"]["bias"] = jnp.array([0.1, 0.2, -0.3])
    kernel, bias = (np.asarray(params["layer0"][name]) for name in ("kernel", "bias"))
    expected = np.tanh(np.asarray(x) @ kernel + bias)
    np.testing.assert_allclose(policy.apply(params, None, x), expected, rtol=1e-5)


@pytest.mark.parametrize("output", ["scale", "clip"])
def test_actions_reach_and_keep_their_bounds(output):
    lowest, highest = outputs(vector_task(2, LOW, HIGH), output, -1e3, 1e3)
    np.testing.assert_allclose(lowest, LOW, atol=1e-6)
    np.testing.assert_allclose(highest, HIGH, atol=1e-6)


def test_tanh_reaches_no_more_than_one():
    wide = vector_task(2, [-2, -1, 0.5], [2, 1, 3])
    lowest, zero, highest = outputs(wide, "tanh", -1e3, 0, 1e3)
    np.testing.assert_array_equal(lowest, np.float32([-1, -1, 0.5]))
    np.testing.assert_array_equal(zero, np.float32([0, 0, 0.5]))
    np.testing.assert_array_equal(highest, [1, 1, 1])


EDGES = np.float32([-INF, -3e38, -100, -1.7, -1, -0.1, 0, 1e-30, 0.3, 1, 1.1, 7.7, 1e9, 3e38, INF])


@pytest.mark.parametrize("output", ["scale", "clip", "tanh"])
def test_no_action_leaves_finite_bounds(output):
    """Not even by a rounding."""
    low, high = zip(*itertools.combinations(EDGES, 2), strict=True)
    acted = outputs(vector_task(1, low, high), output, *EDGES[1:-1])
    assert all(((np.float32(low) <= x) & (x <= np.float32(high))).all() for x in acted)


def test_scale_maps_zero_to_the_middle():
    (middle,) = outputs(vector_task(2, LOW, HIGH), "scale", 0)
    np.testing.assert_allclose(middle, (LOW + HIGH) / 2, atol=1e-6)


def test_scale_gives_plain_numbers_where_a_bound_is_missing():
    """By component: clipped to what bound there is, out of reach of none."""
    task = vector_task(2, [-INF, 0, -INF, -1], [INF, INF, 5, 1])
    lowest, some, highest = outputs(task, "scale", -1e3, 3, 1e3)
    np.testing.assert_array_equal(lowest, np.float32([-1e3, 0, -1e3, -1]))
    np.testing.assert_allclose(some, [3, 3, 3, np.tanh(3)], rtol=1e-6)
    np.testing.assert_array_equal(highest, np.float32([1e3, 1e3, 5, 1]))


def test_the_largest_numbers_are_no_bounds_to_scale_to():
    largest = np.finfo(np.float32).max
    lowest, some = outputs(vector_task(1, [-largest], [largest]), "scale", -1e3, 7)
    assert (lowest[0], some[0]) == (-1e3, 7)


@pytest.mark.parametrize("output", ["scale", "clip", "sample"])
def test_choices_get_plain_scores(output):
    (scores,) = outputs(choice_task(2), output, 71.0)
    np.testing.assert_array_equal(scores, np.full(4, 71.0))


@pytest.mark.parametrize("output", ["scale", "clip", "tanh"])
def test_a_missing_number_is_not_made_up(output):
    task = vector_task(4, [-1, -INF], [1, INF])
    policy = make_policy(task, output=output)
    acted = policy.apply(policy.init(KEY), None, jnp.array([0.0, jnp.nan, 1.0, 2.0]))
    assert np.isnan(acted).all()


def test_only_to_sample_is_stochastic():
    assert make_policy(choice_task(), output="sample").stochastic
    assert not make_policy(choice_task()).stochastic


def test_to_sample_needs_a_choice_of_actions():
    with pytest.raises(ValueError, match="several choices, and actions of test/vector are none"):
        make_policy(vector_task(), output="sample")
    unbounded = vector_task(4, [-INF], [INF])
    with pytest.raises(ValueError, match="test/vector"):
        make_policy(unbounded, output="sample")


def test_an_unknown_output_is_refused():
    unchecked = inspect.unwrap(make_policy)  # not by the types, as a user's call is not
    with pytest.raises(ValueError, match="one of scale, clip, tanh, sample, got 'linear'"):
        unchecked(vector_task(), output="linear")


# ---------------------------------------------------------------------------------------- start


STARTS = {
    "linear": (vector_task(3, LOW, HIGH), {}),
    "mlp": (vector_task(3, LOW, HIGH), {"hidden": (5, 4)}),
    "batch": (vector_task(3), {"hidden": (5,), "reference": np.eye(3, dtype=np.float32)}),
    "image": (image_task((2, 8, 8)), {"convolutions": (Convolution(3, 4, 2),), "hidden": (4,)}),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_start_from_zero_has_a_last_layer_of_zeros_and_the_others_as_they_are(case):
    task, options = STARTS[case]
    normal, zero = (
        jax.jit(make_policy(task, start=start, **options).init)(KEY) for start in ("normal", "zero")
    )
    last = make_policy(task, **options).layers[-1].name
    assert np.any(normal[last]["kernel"]) and not any(map(np.any, zero[last].values()))
    assert {**zero, last: None}.keys() == normal.keys()
    for name in normal.keys() - {last}:
        jax.tree.map(np.testing.assert_array_equal, zero[name], normal[name])
    same = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), zero, normal)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_every_action_begins_at_the_middle_of_its_bounds(hidden):
    policy = make_policy(vector_task(2, LOW, HIGH), hidden=hidden, start="zero")
    params = policy.init(KEY)
    for x in ([0.0, 0.0], [3.0, -70.0]):
        action = policy.apply(params, None, jnp.array(x))
        np.testing.assert_allclose(action, (LOW + HIGH) / 2, atol=1e-6)


def test_without_bounds_every_action_begins_at_zero():
    for task in (vector_task(2, [-INF], [INF]), choice_task(2)):
        policy = make_policy(task, start="zero")
        action = policy.apply(policy.init(KEY), None, jnp.array([3.0, -70.0]))
        np.testing.assert_array_equal(action, np.zeros(task.num_actions))


def test_a_policy_starts_at_random_by_default():
    chosen, default = (make_policy(vector_task(), **o).init(KEY) for o in ({"start": "normal"}, {}))
    jax.tree.map(np.testing.assert_array_equal, chosen, default)


def test_an_unknown_start_is_refused():
    unchecked = inspect.unwrap(make_policy)
    with pytest.raises(ValueError, match="start must be one of normal, zero, got 'ones'"):
        unchecked(vector_task(), start="ones")


# ------------------------------------------------------------------------------- reach of actions


@pytest.mark.parametrize(
    "low, high, told",
    [
        ([-0.4], [0.4], None),
        ([-1], [1], None),
        ([-INF], [INF], None),
        ([0], [INF], None),
        ([0.5], [0.5], None),
        ([0], [100], "action 0 reaches 0 ... 1 of 0 ... 100"),
        ([-1, -8], [1, 8], "action 1 reaches -1 ... 1 of -8 ... 8"),
        ([-5], [INF], "action 0 reaches -1 ... 1 of -5 ... inf"),
        ([2], [INF], "action 0 reaches 2 ... 2 of 2 ... inf"),
        ([-3], [-1], "action 0 reaches -1 ... -1 of -3 ... -1"),
    ],
)
def test_bounds_out_of_the_reach_of_tanh_are_told(low, high, told):
    task = vector_task(2, low, high)
    sentence = told and f"test/vector: with output tanh, {told}; set policy.output: scale"
    assert unreachable(task, "tanh") == sentence
    assert unreachable(task, "scale") is unreachable(task, "clip") is None


# ----------------------------------------------------------------------------------- observations


@pytest.mark.parametrize(
    "normalize, uses",
    [(by_running_moments(), True), (by_observation(), False), (unnormalized(), False)],
)
def test_a_policy_says_whether_it_reads_moments(normalize, uses):
    assert make_policy(vector_task(), normalize=normalize).uses_moments is uses


def test_the_network_sees_the_normalized_observation():
    plain = make_policy(vector_task())
    clipped = make_policy(vector_task(), normalize=by_running_moments(clip=0.5))
    params, none_seen = plain.init(KEY), Moments.empty(4)
    np.testing.assert_array_equal(
        clipped.apply(params, none_seen, jnp.array([9.0, -9.0, 0.2, 0.0])),
        plain.apply(params, None, jnp.array([0.5, -0.5, 0.2, 0.0])),
    )


@pytest.mark.parametrize(
    "task, told",
    [
        (vector_task(1), "test/vector shows one feature, .* set policy.normalization: running"),
        (vector_task(2), "test/vector shows 2 features"),
        (vector_task(1, distractors=1), "test/vector shows 2 features"),
    ],
)
def test_a_policy_that_would_see_nothing_is_refused(task, told):
    with pytest.raises(ValueError, match=told):
        make_policy(task, normalize=by_observation())
    assert blindness(task, by_running_moments()) is blindness(task, unnormalized()) is None


def test_three_features_are_seen_one_by_one():
    assert blindness(vector_task(3), by_observation()) is None


def test_convolutions_need_images_of_their_size():
    with pytest.raises(ValueError, match="test/vector shows a vector"):
        make_policy(vector_task(), convolutions=CONVOLUTIONS["nature"])
    make_policy(image_task((4, 36, 36)), convolutions=CONVOLUTIONS["nature"])
    with pytest.raises(ValueError, match="test/image, 35 x 84 pixels, are too small.*36 x 36"):
        make_policy(image_task((4, 35, 84)), convolutions=CONVOLUTIONS["nature"])


def test_filters_must_be_made_of_whole_blocks():
    with pytest.raises(ValueError, match="multiple of its stride, got .*size=5, stride=2"):
        make_policy(image_task(), convolutions=(Convolution(8, 5, 2),))


# ---------------------------------------------------------------------------------------- float32


def acted_with(task, options, x64):
    """Params and action with JAX's default of 32 bits, or of 64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=task.num_features).astype(np.float32)
    moments = [rng.uniform(1, 2, shape).astype(np.float32) for shape in ((), *[x.shape] * 2)]
    with jax.enable_x64(x64):
        policy = make_policy(task, **options)
        params = jax.jit(policy.init)(KEY)
        return params, jax.jit(policy.apply)(
            params, Moments(*map(jnp.asarray, moments)), jnp.asarray(x)
        )


@pytest.mark.parametrize(
    "task, options",
    [
        (vector_task(6, LOW, HIGH), {"normalize": by_running_moments()}),
        (vector_task(6), {"normalize": by_observation(), "output": "tanh"}),
        (vector_task(6), {"hidden": (4,), "reference": np.eye(6, dtype=np.float32)}),
        (image_task((2, 8, 8)), {"convolutions": (Convolution(3, 4, 2),)}),
    ],
)
def test_double_precision_in_jax_changes_nothing(task, options):
    double, single = (acted_with(task, options, x64) for x64 in (True, False))
    for a, b in zip(jax.tree.leaves(double), jax.tree.leaves(single), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_an_observation_of_double_precision_is_rounded():
    policy = make_policy(vector_task())
    params, x = policy.init(KEY), np.array([0.1, 0.2, 0.3, 0.4])
    with jax.enable_x64(True):
        action = policy.apply(params, None, jnp.asarray(x))
    assert action.dtype == np.float32
    np.testing.assert_array_equal(action, policy.apply(params, None, jnp.float32(x)))


# ---------------------------------------------------------------------------------- segment norms


def dense(kernel, inputs="observation", name="layer0"):
    return Layer(name, "dense", f"{name}/kernel", kernel.shape, inputs)


KERNEL = np.random.default_rng(0).normal(size=(3 * 4, 2)).astype(np.float32)
BLOCKS = np.linalg.norm(KERNEL.reshape(3, -1), axis=1)
Params = namedtuple("Params", ["layer0"])


def test_segment_norms_are_the_norms_of_blocks_of_rows():
    norms = segment_norms({"layer0": {"kernel": KERNEL}}, (dense(KERNEL),), 2)
    np.testing.assert_allclose(norms, BLOCKS, rtol=1e-6)


def test_segment_norms_of_a_policy_are_those_of_what_it_sees():
    policy = make_policy(vector_task(4, distractors=2), hidden=(5,))
    params = policy.init(KEY)
    norms = segment_norms(params, policy.layers, 2)
    expected = np.linalg.norm(np.reshape(params["layer0"]["kernel"], (3, -1)), axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_segments_of_images_are_their_channels():
    task = image_task((2, 20, 20), distractors=2)
    policy = make_policy(task, convolutions=(Convolution(8, 8, 4),))
    params = jax.jit(policy.init)(KEY)
    kernel = params["layer0"]["kernel"].reshape(3, 2 * 64, 8).at[1:].set(0)
    params["layer0"]["kernel"] = kernel.reshape(6 * 64, 8)
    norms = segment_norms(params, policy.layers, 2)
    assert norms[0] > 0 and (norms[1:] == 0).all()
    image, act = jax.random.uniform(KEY, (6, 20, 20)), jax.jit(policy.apply)
    other = image.at[2:].set(0.5)
    np.testing.assert_array_equal(*[act(params, None, x.ravel()) for x in (image, other)])


def test_segment_norms_are_over_all_layers_that_read_the_observation():
    other = 2 * KERNEL[:, :1]
    params = {"layer0": {"kernel": KERNEL}, "side": {"kernel": other}, "layer1": {"kernel": KERNEL}}
    layers = (dense(KERNEL), dense(other, name="side"), dense(KERNEL, "layer0", "layer1"))
    both = np.hypot(BLOCKS, np.linalg.norm(other.reshape(3, -1), axis=1))
    np.testing.assert_allclose(segment_norms(params, layers, 2), both, rtol=1e-6)


@pytest.mark.parametrize(
    "params, path",
    [
        ({"a": {"b": {"kernel": KERNEL}}}, "a/b/kernel"),
        ({"a/b/kernel": KERNEL}, "a/b/kernel"),
        (Params(layer0={"kernel": KERNEL}), "layer0/kernel"),
        ([{"kernel": KERNEL}], "0/kernel"),
        (KERNEL, ""),
    ],
)
def test_kernels_are_found_by_their_paths_whatever_holds_them(params, path):
    layer = Layer("mine", "dense", path, KERNEL.shape, "observation")
    np.testing.assert_allclose(segment_norms(params, (layer,), 2), BLOCKS, rtol=1e-6)


def test_a_policy_of_a_users_own_has_no_segment_norms():
    policy = Policy(
        init=lambda key: {"gain": jax.random.normal(key, (4,)), "name": None},
        apply=lambda params, moments, observation: params["gain"] * observation,
    )
    norms = segment_norms(policy.init(KEY), policy.layers, 5)
    assert norms.shape == (0,) and norms.dtype == np.float32


@pytest.mark.parametrize(
    "params, layer, distractors",
    [
        ({"layer0": {"kernel": KERNEL}}, dense(KERNEL), 4),  # 12 rows, 5 segments
        ({"layer0": {"kernel": KERNEL}}, dense(KERNEL, "core"), 2),
        ({"layer0": {"kernel": KERNEL.T}}, dense(KERNEL), 2),
        ({"layer0": KERNEL}, dense(KERNEL), 2),
        ({"layer0": {"kernel": LowRank(KERNEL, None, None)}}, dense(KERNEL), 2),
        ({"layer0": {"kernel": 3.0}}, dense(KERNEL), 2),
        ([], dense(KERNEL), 2),
        (None, dense(KERNEL), 2),
    ],
)
def test_what_has_no_segments_has_no_segment_norms(params, layer, distractors):
    assert segment_norms(params, (layer,), distractors).shape == (0,)


def test_filters_have_segments_only_if_whole_channels_divide():
    kernel = np.ones((2 * 9, 5), np.float32)
    layer = Layer("layer0", "convolution", "layer0/kernel", (2, 3, 3, 5), "observation")
    assert segment_norms({"layer0": {"kernel": kernel}}, (layer,), 1).shape == (2,)
    assert segment_norms({"layer0": {"kernel": kernel}}, (layer,), 2).shape == (0,)


def test_one_layer_without_segments_leaves_none():
    """A norm over a part of the weights would mislead."""
    params = {"layer0": {"kernel": KERNEL}}
    layers = (dense(KERNEL), dense(KERNEL, name="missing"))
    assert segment_norms(params, layers, 2).shape == (0,)
