"""Networks on frames, against convolutions of JAX and flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from nesht_jax.contract import LowRank, alike
from nesht_jax.network import CONVOLUTIONS, Convolution, Residual, convolution, kernel_shapes
from nesht_jax.normalize import none
from nesht_jax.policy import make_policy, segment_norms

KEY = jax.random.key(0)
FRAMES = (4, 84, 84)


def convolutional(name="dqn2013", frames=FRAMES, actions=6, **options):
    scores = np.full(actions, np.inf, np.float32)
    options = {"convolutions": CONVOLUTIONS[name], "activation": jax.nn.relu, **options}
    options |= {"frames": frames, "output": "clip", "normalizer": none()}
    return make_policy(int(np.prod(frames)), -scores, scores, **options)


def number_of(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


IMPALA = [(4, 16), *[(16, 16)] * 4, (16, 32), *[(32, 32)] * 4, (32, 32), *[(32, 32)] * 4]


@pytest.mark.parametrize(
    "name, hidden, expected",
    [
        ("dqn2013", (), (256 * 16 + 16) + (256 * 32 + 32) + (9 * 9 * 32 * 6 + 6)),
        ("dqn2013", (256,), (256 * 16 + 16) + (256 * 32 + 32) + (2592 * 256 + 256) + 257 * 6),
        ("nature", (512,), 8224 + 32_832 + 36_928 + (7 * 7 * 64 * 512 + 512) + (513 * 6)),
        (
            "impala",
            (256,),
            sum(9 * i * o + o for i, o in IMPALA) + (11 * 11 * 32 * 256 + 256) + 257 * 6,
        ),
    ],
)
def test_the_networks_of_atari_have_their_published_numbers_of_parameters(name, hidden, expected):
    policy = convolutional(name, hidden=hidden)
    assert number_of(jax.eval_shape(policy.init, KEY)) == expected


def lax_convolution(x, kernel, size, stride, padding="VALID"):
    """[channels, height, width], and the kernel as its rows are sorted: by channel first."""
    kernel = kernel.reshape(-1, size, size, kernel.shape[-1])
    numbers = ("NCHW", "IHWO", "NCHW")
    x = jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), padding, dimension_numbers=numbers
    )
    return x[0]


@pytest.mark.parametrize(
    "shape, size, stride",
    [((3, 84, 84), 8, 4), ((2, 21, 23), 4, 2), ((5, 9, 9), 3, 1), ((1, 10, 7), 6, 2)],
)
def test_a_convolution_is_that_of_lax(shape, size, stride):
    channels = shape[0]
    x, kernel = jax.random.normal(KEY, shape), jax.random.normal(KEY, (channels * size**2, 7))
    expected = jnp.moveaxis(lax_convolution(x, kernel, size, stride), 0, -1)
    made = convolution(jnp.moveaxis(x, 0, -1), kernel, size=size, stride=stride)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def biased(x, layer):
    return x + layer["bias"][:, None, None]


def head(params, first, x):
    """Dense layers with relu between; pixels first, then channels."""
    x = jnp.moveaxis(x, 0, -1).ravel()
    x = jax.nn.relu(x @ params[f"layer{first}"]["kernel"] + params[f"layer{first}"]["bias"])
    return x @ params[f"layer{first + 1}"]["kernel"] + params[f"layer{first + 1}"]["bias"]


def biases_too(params):
    return jax.tree.map(lambda x: x + 0.01, params)


def test_a_convolutional_policy_is_that_of_lax():
    policy = convolutional("nature", hidden=(16,))
    params = biases_too(policy.init(KEY))
    frames = x = jax.random.uniform(jax.random.key(1), FRAMES)
    for i, (_, size, stride) in enumerate(CONVOLUTIONS["nature"]):
        layer = params[f"layer{i}"]
        x = jax.nn.relu(biased(lax_convolution(x, layer["kernel"], size, stride), layer))
    expected = head(params, 3, x)
    np.testing.assert_allclose(policy.apply(params, None, frames.ravel()), expected, rtol=2e-4)


@pytest.mark.slow
def test_residual_sections_are_those_of_impala():
    frames = (4, 21, 20)
    policy = convolutional(frames=frames, hidden=(16,), convolutions=(Residual(8), Residual(6)))
    params = biases_too(policy.init(KEY))
    pixels = x = jax.random.uniform(jax.random.key(1), frames)
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
    expected = head(params, 10, jax.nn.relu(x))
    acted = policy.apply(params, None, pixels.ravel())
    np.testing.assert_allclose(acted, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["dqn2013", pytest.param("impala", marks=pytest.mark.slow)])
def test_members_in_a_batch_act_as_they_do_alone(name):
    """On a CPU a batch is a loop; the centre is shared, as with low rank, or each has its own."""
    policy = convolutional(name, (2, 40, 40))
    stacked = jax.vmap(policy.init)(jax.random.split(KEY, 3))
    seen = jax.random.uniform(KEY, (3, 2 * 40 * 40))

    def member(i):
        return jax.tree.map(lambda x: x[i], stacked)

    own = jax.vmap(lambda params, x: policy.apply(params, None, x))(stacked, seen)
    shared = jax.vmap(lambda x: policy.apply(member(0), None, x))(seen)
    for i in range(3):
        np.testing.assert_allclose(own[i], policy.apply(member(i), None, seen[i]), rtol=1e-4)
        np.testing.assert_allclose(shared[i], policy.apply(member(0), None, seen[i]), rtol=1e-4)


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


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.5, 20.0)])
def test_virtual_batch_normalisation_of_filters_is_by_channel(scale, shift):
    """It undoes what is done to references and observation alike."""
    references = np.asarray(jax.random.uniform(KEY, (8, 2 * 20 * 20)))
    x = jax.random.uniform(jax.random.key(1), (800,))

    def acted(scale, shift):
        policy = convolutional(
            frames=(2, 20, 20),
            convolutions=(Convolution(8, 8, 4),),
            reference=100 * scale * references + shift,
        )
        params = policy.init(KEY)
        assert set(params) == {"layer0", "norm0", "layer1"} and set(params["layer0"]) == {"kernel"}
        prepared = policy.prepare(alike(params))(jnp.int32(0))
        assert prepared["batch_stats"]["norm0"]["mean"].shape == (8,)
        return policy.apply(prepared, None, 100 * scale * x + shift)

    np.testing.assert_allclose(acted(scale, shift), acted(1.0, 0.0), rtol=2e-2, atol=2e-3)


def test_convolutions_need_frames_of_their_size():
    with pytest.raises(ValueError, match="shows a vector"):
        make_policy(
            11,
            np.float32([-1]),
            np.float32([1]),
            convolutions=CONVOLUTIONS["nature"],
            normalizer=none(),
        )
    convolutional("nature", (4, 36, 36)).init(KEY)
    with pytest.raises(ValueError, match="35 x 84 pixels are too small.*36 x 36"):
        convolutional("nature", (4, 35, 84))


def test_kernels_are_told_by_their_shapes():
    params = jax.eval_shape(convolutional(hidden=(256,)).init, KEY)
    assert kernel_shapes(params, CONVOLUTIONS["dqn2013"]) == {
        "layer0/kernel": (4, 8, 8, 16),
        "layer1/kernel": (16, 4, 4, 32),
        "layer2/kernel": (2592, 256),
        "layer3/kernel": (256, 6),
    }
    params = jax.eval_shape(convolutional("impala").init, KEY)
    shapes = kernel_shapes(params, CONVOLUTIONS["impala"])
    assert len(shapes) == 16
    assert (shapes["layer5/kernel"], shapes["layer15/kernel"]) == ((16, 3, 3, 32), (3872, 6))
