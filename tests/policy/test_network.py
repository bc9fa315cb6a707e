"""Networks: sizes and scale of the published ones, outputs by NumPy and JAX, layers as told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from policy_helpers import count, image_task, lax_convolution, vector_task

from nesht_jax.policy.convolution import CONVOLUTIONS, Convolution, Residual
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Layer, LowRank

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(0)
IMAGE = (4, 84, 84)


def vector_policy(features, actions=3, **options):
    return make_policy(vector_task(features, (-1,) * actions, (1,) * actions), **options)


def convolutional(name="dqn2013", shape=IMAGE, **options):
    options = {"convolutions": CONVOLUTIONS[name], "activation": jax.nn.relu} | options
    return make_policy(image_task(shape), **options)


@pytest.mark.parametrize(
    "features, actions, distractors, expected",
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
    features, actions, distractors, expected
):
    task = vector_task(features, (-1,) * actions, (1,) * actions, distractors=distractors)
    assert count(jax.eval_shape(make_policy(task).init, KEY)) == expected


def test_hidden_layers_are_counted():
    params = jax.eval_shape(vector_policy(10, 3, hidden=(8, 4)).init, KEY)
    assert count(params) == (10 * 8 + 8) + (8 * 4 + 4) + (4 * 3 + 3)


SECTIONS = [(4, 16), *[(16, 16)] * 4, (16, 32), *[(32, 32)] * 4, (32, 32), *[(32, 32)] * 4]


@pytest.mark.parametrize(
    "name, hidden, expected",
    [
        ("dqn2013", (), (256 * 16 + 16) + (256 * 32 + 32) + (9 * 9 * 32 * 6 + 6)),
        ("dqn2013", (256,), (256 * 16 + 16) + (256 * 32 + 32) + (2592 * 256 + 256) + 257 * 6),
        ("nature", (512,), 8224 + 32_832 + 36_928 + (7 * 7 * 64 * 512 + 512) + (513 * 6)),
        (
            "impala",
            (256,),
            sum(9 * i * o + o for i, o in SECTIONS) + (11 * 11 * 32 * 256 + 256) + 257 * 6,
        ),
    ],
)
def test_the_networks_of_atari_have_their_published_numbers_of_parameters(name, hidden, expected):
    assert count(jax.eval_shape(convolutional(name, hidden=hidden).init, KEY)) == expected


def test_kernels_start_with_variance_two_over_inputs_and_one():
    kernel = vector_policy(3, 5000).init(KEY)["layer0"]["kernel"]
    deviation = np.sqrt(2 / (3 + 1))
    assert abs(kernel.std() / deviation - 1) < STANDARD_ERRORS / np.sqrt(2 * kernel.size)
    assert abs(kernel.mean()) < STANDARD_ERRORS * deviation / np.sqrt(kernel.size)


def test_biases_start_at_zero():
    params = vector_policy(5, hidden=(4,)).init(KEY)
    assert [(layer["bias"] == 0).all() for layer in params.values()] == [True, True]


def test_the_mlp_activates_between_layers_only():
    policy = vector_policy(4, hidden=(5,), activation=jax.nn.relu, output="clip")
    params, x = policy.init(KEY), jnp.array([0.1, -0.2, 0.05, 0.1])
    first, last = (np.asarray(params[layer]["kernel"]) for layer in ("layer0", "layer1"))
    expected = np.maximum(np.asarray(x) @ first, 0) @ last
    np.testing.assert_allclose(policy.apply(params, None, x), expected, rtol=1e-4, atol=1e-6)


def test_dense_kernels_of_low_rank_are_their_product():
    policy, x = vector_policy(5), jnp.array([0.1, -0.2, 0.05, 0.1, 1.0])
    params = policy.init(KEY)["layer0"]
    a, b = jax.random.normal(KEY, (5, 2)), jax.random.normal(jax.random.key(1), (3, 2))
    low_rank, full = (
        policy.apply({"layer0": params | {"kernel": kernel}}, None, x)
        for kernel in (LowRank(params["kernel"], a, b), params["kernel"] + a @ b.T)
    )
    np.testing.assert_allclose(low_rank, full, rtol=1e-4, atol=1e-5)


def biased(x, layer):
    return x + layer["bias"][:, None, None]


def head(params, first, x):
    """Dense layers with relu between; pixels first, then channels."""
    x = jnp.moveaxis(x, 0, -1).ravel()
    x = jax.nn.relu(x @ params[f"layer{first}"]["kernel"] + params[f"layer{first}"]["bias"])
    return x @ params[f"layer{first + 1}"]["kernel"] + params[f"layer{first + 1}"]["bias"]


def assert_is(policy, expected, shape, **tolerances):
    """That the policy of an image is the function (params, image), jitted to be compiled once."""
    params = jax.tree.map(lambda x: x + 0.01, jax.jit(policy.init)(KEY))  # biases too
    image = jax.random.uniform(jax.random.key(1), shape, jnp.float32)
    acted = jax.jit(policy.apply)(params, None, image.ravel())
    np.testing.assert_allclose(acted, jax.jit(expected)(params, image), **tolerances)


@pytest.mark.slow
def test_a_convolutional_policy_is_that_of_lax():
    def expected(params, x):
        for i, (_, size, stride) in enumerate(CONVOLUTIONS["nature"]):
            layer = params[f"layer{i}"]
            x = jax.nn.relu(biased(lax_convolution(x, layer["kernel"], size, stride), layer))
        return head(params, 3, x)

    assert_is(convolutional("nature", hidden=(16,)), expected, IMAGE, rtol=2e-4)


@pytest.mark.slow
def test_residual_sections_are_those_of_impala():
    def expected(params, x):
        numbers = iter(range(10))

        def padded(x):
            layer = params[f"layer{next(numbers)}"]
            return biased(lax_convolution(x, layer["kernel"], 3, 1, "SAME"), layer)

        for _ in range(2):
            x = jnp.moveaxis(padded(x), 0, -1)
            x = jnp.moveaxis(nn.max_pool(x, (3, 3), (2, 2), "SAME"), -1, 0)
            for _ in range(2):
                y = padded(jax.nn.relu(x))
                x = x + padded(jax.nn.relu(y))
        return head(params, 10, jax.nn.relu(x))

    shape, sections = (4, 21, 20), (Residual(8), Residual(6))
    policy = convolutional(shape=shape, hidden=(16,), convolutions=sections)
    assert_is(policy, expected, shape, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", [Convolution(8, 8, 4), Residual(4)])
def test_members_in_a_batch_act_as_they_do_alone(part):
    """On a CPU a batch is a loop; the center is shared, as with low rank, or each has its own."""
    policy = convolutional(shape=(2, 20, 20), convolutions=(part,))
    stacked = jax.jit(jax.vmap(policy.init))(jax.random.split(KEY, 3))
    seen, act = jax.random.uniform(KEY, (3, 2 * 20 * 20)), jax.jit(policy.apply)

    def member(i):
        return jax.tree.map(lambda x: x[i], stacked)

    own = jax.vmap(act, (0, None, 0))(stacked, None, seen)
    shared = jax.vmap(act, (None, None, 0))(member(0), None, seen)
    for i in range(3):
        np.testing.assert_allclose(own[i], act(member(i), None, seen[i]), rtol=1e-4)
        np.testing.assert_allclose(shared[i], act(member(0), None, seen[i]), rtol=1e-4)


NETWORKS = {
    "linear": (vector_task(6), {}),
    "linear with distractors": (vector_task(6, distractors=3), {}),
    "mlp": (vector_task(6), {"hidden": (5, 4)}),
    "image without convolutions": (image_task((2, 6, 6)), {"hidden": (5,)}),
    "dqn2013": (image_task(), {"hidden": (256,), "convolutions": CONVOLUTIONS["dqn2013"]}),
    "distractors of images": (
        image_task((2, 40, 36), distractors=2),
        {"convolutions": CONVOLUTIONS["dqn2013"]},
    ),
    "nature": (image_task(), {"hidden": (512,), "convolutions": CONVOLUTIONS["nature"]}),
    "impala": (image_task((3, 41, 30)), {"hidden": (9,), "convolutions": CONVOLUTIONS["impala"]}),
}


@pytest.mark.parametrize(
    "name, normalized",
    [
        (name, normalized)
        for name, (_, options) in NETWORKS.items()
        for normalized in ([False, True] if options else [False])
    ],
)
def test_layers_are_told_as_they_are(name, normalized):
    task, options = NETWORKS[name]
    reference = np.zeros((2, task.num_features), np.float32) if normalized else None
    policy = make_policy(task, reference=reference, **options)
    params = jax.eval_shape(policy.init, KEY)
    kernels = {name: params[name]["kernel"].shape for name in params if "kernel" in params[name]}
    assert {layer.name: (layer.fan_in, layer.fan_out) for layer in policy.layers} == kernels
    names = [layer.name for layer in policy.layers]
    assert names == [f"layer{i}" for i in range(len(kernels))]
    assert [layer.inputs for layer in policy.layers] == ["observation", *names[:-1]]
    assert [layer.kernel for layer in policy.layers] == [f"{name}/kernel" for name in names]


def test_layers_of_filters_are_told_by_channels_and_pixels():
    assert convolutional(hidden=(256,)).layers == (
        Layer("layer0", "convolution", "layer0/kernel", (4, 8, 8, 16), "observation"),
        Layer("layer1", "convolution", "layer1/kernel", (16, 4, 4, 32), "layer0"),
        Layer("layer2", "dense", "layer2/kernel", (2592, 256), "layer1"),
        Layer("layer3", "dense", "layer3/kernel", (256, 6), "layer2"),
    )
    layers = convolutional("impala").layers
    assert len(layers) == 16
    assert (layers[5].shape, layers[15].shape) == ((16, 3, 3, 32), (3872, 6))
