"""Policies: the published sizes and initial scale, actions within bounds, segment norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nesht_jax.contract import Members, alike
from nesht_jax.normalize import empty, none, per_observation, running
from nesht_jax.policy import make_policy, segment_norms

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(0)
LOW, HIGH = np.float32([-0.4, 0.0, -3.0]), np.float32([0.4, 1.0, -1.0])


def policy_for(features, actions=3, *, normalizer=None, **options):
    ones = np.ones(actions, np.float32)
    return make_policy(features, -ones, ones, normalizer=normalizer or none(), **options)


def number_of(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "observation, actions, noise, expected",
    [
        (11, 3, 5, 201),
        (11, 3, 10, 366),
        (11, 3, 20, 696),
        (17, 6, 5, 618),
        (17, 6, 10, 1128),
        (17, 6, 20, 2148),
    ],
)
def test_the_linear_policies_have_the_published_numbers_of_parameters(
    observation, actions, noise, expected
):
    policy = policy_for(observation * (1 + noise), actions)
    assert number_of(jax.eval_shape(policy.init, KEY)) == expected


def test_hidden_layers_are_counted():
    params = jax.eval_shape(policy_for(10, 3, hidden=(8, 4)).init, KEY)
    assert number_of(params) == (10 * 8 + 8) + (8 * 4 + 4) + (4 * 3 + 3)


def test_kernels_start_with_variance_two_over_inputs_and_one():
    kernel = policy_for(3, 5000).init(KEY)["layer0"]["kernel"]
    deviation = np.sqrt(2 / (3 + 1))
    assert abs(kernel.std() / deviation - 1) < STANDARD_ERRORS / np.sqrt(2 * kernel.size)
    assert abs(kernel.mean()) < STANDARD_ERRORS * deviation / np.sqrt(kernel.size)


def test_biases_start_at_zero():
    params = policy_for(5, hidden=(4,)).init(KEY)
    assert [(layer["bias"] == 0).all() for layer in params.values()] == [True, True]


def test_the_linear_policy_is_one_matrix_and_tanh():
    policy, x = policy_for(4), jnp.array([1.0, -2.0, 0.5, 0.1])
    params = policy.init(KEY)
    params["layer0"]["bias"] = jnp.array([0.1, 0.2, -0.3])
    kernel, bias = (np.asarray(params["layer0"][name]) for name in ("kernel", "bias"))
    expected = np.tanh(np.asarray(x) @ kernel + bias)
    np.testing.assert_allclose(policy.apply(params, None, x), expected, rtol=1e-5)


def test_the_mlp_activates_between_layers_only():
    policy = policy_for(4, hidden=(5,), activation=jax.nn.relu, output="clip")
    params, x = policy.init(KEY), jnp.array([0.1, -0.2, 0.05, 0.1])
    first, last = (np.asarray(params[layer]["kernel"]) for layer in ("layer0", "layer1"))
    expected = np.maximum(np.asarray(x) @ first, 0) @ last
    np.testing.assert_allclose(policy.apply(params, None, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "output, low, high",
    [("tanh", [-1, -1, -1], [1, 1, 1]), ("clip", LOW, HIGH), ("scale", LOW, HIGH)],
)
def test_actions_reach_and_keep_their_bounds(output, low, high):
    policy = make_policy(2, LOW, HIGH, output=output, normalizer=none())
    params = jax.tree.map(lambda p: 1e3 * jnp.sign(p), policy.init(KEY))
    sign = np.sign(params["layer0"]["kernel"])[0]
    there, back = (policy.apply(params, None, jnp.array([x, 0.0])) for x in (1.0, -1.0))
    np.testing.assert_allclose(there, np.where(sign > 0, high, low), atol=1e-6)
    np.testing.assert_allclose(back, np.where(sign > 0, low, high), atol=1e-6)


def test_scale_maps_zero_to_the_middle():
    policy = make_policy(2, LOW, HIGH, output="scale", normalizer=none())
    still = jax.tree.map(jnp.zeros_like, policy.init(KEY))
    np.testing.assert_allclose(policy.apply(still, None, jnp.ones(2)), (LOW + HIGH) / 2, atol=1e-6)


def test_clip_leaves_unbounded_actions_alone():
    unbounded = np.full(1, np.inf, np.float32)
    policy = make_policy(1, -unbounded, unbounded, output="clip", normalizer=none())
    params = {"layer0": {"kernel": jnp.array([[7.0]]), "bias": jnp.array([1.0])}}
    assert policy.apply(params, None, jnp.array([10.0])).tolist() == [71.0]


@pytest.mark.parametrize("low, high", [(-np.inf, 1.0), (-1.0, np.inf)])
def test_scale_needs_finite_bounds(low, high):
    with pytest.raises(ValueError, match="finite"):
        make_policy(2, np.float32([low]), np.float32([high]), output="scale", normalizer=none())


@pytest.mark.parametrize(
    "normalizer, observes", [(running(), True), (per_observation(), False), (none(), False)]
)
def test_a_policy_says_whether_it_reads_moments(normalizer, observes):
    assert policy_for(4, normalizer=normalizer).observes is observes


def test_the_network_sees_the_normalised_observation():
    plain, clipped = policy_for(4), policy_for(4, normalizer=running(clip=0.5))
    params = plain.init(KEY)
    np.testing.assert_array_equal(
        clipped.apply(params, empty(4), jnp.array([9.0, -9.0, 0.2, 0.0])),
        plain.apply(params, None, jnp.array([0.5, -0.5, 0.2, 0.0])),
    )


def test_segment_norms_are_the_norms_of_blocks_of_rows():
    kernel = np.random.default_rng(0).normal(size=(3 * 4, 2)).astype(np.float32)
    norms = segment_norms({"layer0": {"kernel": jnp.asarray(kernel)}}, noise=2)
    expected = [np.linalg.norm(kernel[s * 4 : (s + 1) * 4]) for s in range(3)]
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


SCORES = np.full(4, np.inf, np.float32)


def test_to_sample_takes_scores_as_they_are_and_says_so():
    policy = make_policy(3, -SCORES, SCORES, output="sample", normalizer=none())
    params = jax.tree.map(lambda p: 9 * p, policy.init(KEY))
    plain = make_policy(3, -SCORES, SCORES, output="clip", normalizer=none())
    x = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(policy.apply(params, None, x), plain.apply(params, None, x))
    assert policy.samples and not plain.samples


def test_to_sample_needs_a_choice_of_actions():
    with pytest.raises(ValueError, match="draws one of several actions; this task has none"):
        policy_for(4, output="sample")


REFERENCE = np.random.default_rng(1).normal(2, 3, size=(32, 6)).astype(np.float32)


def virtual_batch(**options):
    return policy_for(6, hidden=(5, 4), output="clip", reference=REFERENCE, **options)


def test_virtual_batch_normalisation_is_that_of_the_reference():
    """Against NumPy, for two members with weights of their own."""
    policy = virtual_batch(activation=jax.nn.relu)
    stacked = jax.vmap(policy.init)(jax.random.split(KEY, 2))
    stacked = jax.tree.map(lambda x: x + 0.3, stacked)  # scales and biases too
    mine = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    members = policy.prepare(Members(mine))
    x = np.random.default_rng(2).normal(size=6).astype(np.float32)
    for i in range(2):
        params = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], np.float64), stacked)
        batch, one = REFERENCE.astype(np.float64), x.astype(np.float64)
        for number in range(2):
            kernel, norm = params[f"layer{number}"]["kernel"], params[f"norm{number}"]
            batch, one = batch @ kernel, one @ kernel
            mean, deviation = batch.mean(0), np.sqrt(batch.var(0) + 1e-3)
            batch, one = (
                np.maximum((y - mean) / deviation * norm["scale"] + norm["bias"], 0)
                for y in (batch, one)
            )
        expected = np.clip(one @ params["layer2"]["kernel"] + params["layer2"]["bias"], -1, 1)
        acted = policy.apply(members(jnp.int32(i)), None, jnp.asarray(x))
        np.testing.assert_allclose(acted, expected, rtol=1e-4, atol=1e-5)


def test_members_are_prepared_alone_as_in_a_batch():
    policy = virtual_batch()
    stacked = jax.vmap(policy.init)(jax.random.split(KEY, 3))
    mine = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    members = policy.prepare(Members(mine))
    together = jax.vmap(members)(jnp.arange(3))
    alone = [members(jnp.int32(i)) for i in range(3)]
    for i, one in enumerate(alone):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            together,
            one,
        )


def test_virtual_batch_normalisation_needs_a_layer_to_normalise():
    with pytest.raises(ValueError, match="for layers with an activation"):
        policy_for(6, reference=REFERENCE)


def test_virtual_batch_normalisation_does_not_go_with_running_moments():
    policy = policy_for(6, hidden=(5,), reference=REFERENCE, normalizer=running())
    with pytest.raises(ValueError, match="running normalisation needs moments"):
        policy.prepare(alike(policy.init(KEY)))(jnp.int32(0))
