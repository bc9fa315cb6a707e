"""Policies: the published sizes and initial scale, actions within bounds, segment norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.contract import LowRank
from nesht_jax.normalize import empty, none, per_observation, running
from nesht_jax.policy import CONVOLUTIONS, Convolution, make_policy, patches, segment_norms

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


FRAMES = (4, 84, 84)


def convolutional(name="dqn2013", frames=FRAMES, actions=6, **options):
    scores = np.full(actions, np.inf, np.float32)
    options = {"convolutions": CONVOLUTIONS[name], "activation": jax.nn.relu, **options}
    options |= {"frames": frames, "output": "clip", "normalizer": none()}
    return make_policy(int(np.prod(frames)), -scores, scores, **options)


@pytest.mark.parametrize(
    "name, hidden, expected",
    [
        ("dqn2013", (), (256 * 16 + 16) + (256 * 32 + 32) + (9 * 9 * 32 * 6 + 6)),
        ("dqn2013", (256,), (256 * 16 + 16) + (256 * 32 + 32) + (2592 * 256 + 256) + 257 * 6),
        ("nature", (512,), 8224 + 32_832 + 36_928 + (7 * 7 * 64 * 512 + 512) + (513 * 6)),
    ],
)
def test_the_networks_of_atari_have_their_published_numbers_of_parameters(name, hidden, expected):
    policy = convolutional(name, hidden=hidden)
    assert number_of(jax.eval_shape(policy.init, KEY)) == expected


@pytest.mark.parametrize(
    "shape, size, stride", [((3, 84, 84), 8, 4), ((2, 21, 23), 4, 2), ((5, 9, 9), 3, 1)]
)
def test_patches_are_the_windows_of_a_convolution(shape, size, stride):
    x = jax.random.normal(KEY, shape)
    cut = patches(x, size, stride)
    rows, columns = ((edge - size) // stride + 1 for edge in shape[1:])
    assert cut.shape == (rows, columns, shape[0] * size**2)
    for i, j in ((0, 0), (1, 2), (rows - 1, columns - 1)):
        window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        np.testing.assert_array_equal(cut[i, j], window.ravel())


def test_a_convolutional_policy_is_that_of_lax():
    policy = convolutional("nature", hidden=(16,))
    params = policy.init(KEY)
    params = jax.tree.map(lambda x: x + 0.01, params)  # biases too
    frames = jax.random.uniform(jax.random.key(1), FRAMES)
    x = frames[None]
    for i, (features, size, stride) in enumerate(CONVOLUTIONS["nature"]):
        layer = params[f"layer{i}"]
        kernel = layer["kernel"].reshape(-1, size, size, features)
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NCHW", "IHWO", "NCHW")
        )
        x = jax.nn.relu(x + layer["bias"][None, :, None, None])
    x = jax.nn.relu(x.ravel() @ params["layer3"]["kernel"] + params["layer3"]["bias"])
    expected = x @ params["layer4"]["kernel"] + params["layer4"]["bias"]
    np.testing.assert_allclose(policy.apply(params, None, frames.ravel()), expected, rtol=2e-4)


def test_filters_of_low_rank_are_their_product():
    policy = convolutional(frames=(2, 20, 20), convolutions=(Convolution(8, 8, 4),))
    params = policy.init(KEY)
    a, b = jax.random.normal(KEY, (128, 2)), jax.random.normal(jax.random.key(1), (8, 2))
    kernel, frames = params["layer0"]["kernel"], jax.random.uniform(KEY, (800,))

    def acted(kernel):
        changed = params | {"layer0": params["layer0"] | {"kernel": kernel}}
        return policy.apply(changed, None, frames)

    np.testing.assert_allclose(
        acted(LowRank(kernel, a, b)), acted(kernel + a @ b.T), rtol=1e-3, atol=1e-4
    )


def test_segments_of_frames_are_their_channels():
    policy = convolutional(frames=(2 * 3, 20, 20), convolutions=(Convolution(8, 8, 4),))
    params = policy.init(KEY)
    kernel = params["layer0"]["kernel"].reshape(3, 2 * 64, 8).at[1:].set(0)
    params["layer0"]["kernel"] = kernel.reshape(6 * 64, 8)
    norms = segment_norms(params, noise=2)
    assert norms[0] > 0 and (norms[1:] == 0).all()
    frames = jax.random.uniform(KEY, (6, 20, 20))
    other = frames.at[2:].set(0.5)
    acted = [policy.apply(params, None, x.ravel()) for x in (frames, other)]
    np.testing.assert_array_equal(*acted)


def test_convolutions_need_frames_of_their_size():
    with pytest.raises(ValueError, match="shows a vector"):
        policy_for(11, convolutions=CONVOLUTIONS["nature"])
    convolutional("nature", (4, 36, 36)).init(KEY)
    with pytest.raises(ValueError, match="35 x 84 pixels are too small.*36 x 36"):
        convolutional("nature", (4, 35, 84))
