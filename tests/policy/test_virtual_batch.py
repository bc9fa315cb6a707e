"""Virtual batch normalization against NumPy, prepared and on the fly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from policy_helpers import choice_task, image_task, vector_task

from nesht_jax.policy.convolution import Convolution
from nesht_jax.policy.normalize import by_observation, by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.policy.virtual_batch import Prepared
from nesht_jax.types import LowRank, Population, replicate

KEY = jax.random.key(0)
REFERENCE = np.random.default_rng(1).normal(2, 3, size=(32, 6)).astype(np.float32)


def normalized(**options):
    options = {"hidden": (5, 4), "output": "clip", "reference": REFERENCE} | options
    return make_policy(vector_task(6), **options)


def jit_population(policy, stacked):
    """The prepared members with these params, stacked along the first axis."""
    draw = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    population = policy.prepare(Population(draw))
    return jax.jit(lambda i: population(i))


def test_it_is_that_of_the_reference():
    """Against NumPy, for two members with weights of their own."""
    policy = normalized(activation=jax.nn.relu)
    stacked = jax.jit(jax.vmap(policy.init))(jax.random.split(KEY, 2))
    stacked = jax.tree.map(lambda x: x + 0.3, stacked)  # scales and biases too
    population, act = jit_population(policy, stacked), jax.jit(policy.apply)
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
        acted = act(population(jnp.int32(i)), None, jnp.asarray(x))
        np.testing.assert_allclose(acted, expected, rtol=1e-4, atol=1e-5)


IMAGES = np.asarray(jax.random.uniform(KEY, (8, 2 * 20 * 20)))
ON_THE_FLY = {
    "mlp": (choice_task(6), {"hidden": (5, 4), "reference": REFERENCE}),
    "by observation": (
        choice_task(6),
        {"hidden": (5,), "reference": REFERENCE, "normalize": by_observation()},
    ),
    "convolutions": (
        image_task((2, 8, 8)),
        {"convolutions": (Convolution(3, 4, 2),), "reference": IMAGES[:, :128]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THE_FLY)
def test_params_need_no_preparation(name):
    """They act as prepared, only slower: alone, and as members of a batch."""
    task, options = ON_THE_FLY[name]
    policy = make_policy(task, **options)
    params = policy.init(KEY)
    x = jax.random.normal(jax.random.key(1), (task.num_features,))
    prepared = policy.prepare(replicate(params))(jnp.int32(0))
    assert isinstance(prepared, Prepared) and prepared.params is params
    expected = policy.apply(prepared, None, x)
    np.testing.assert_array_equal(policy.apply(params, None, x), expected)
    batch = jax.jit(jax.vmap(lambda params, x: policy.apply(params, None, x)))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, x))
    np.testing.assert_allclose(batch(*twice)[1], expected, rtol=1e-5, atol=1e-6)


def test_members_are_prepared_alone_as_in_a_batch():
    policy = normalized()
    stacked = jax.jit(jax.vmap(policy.init))(jax.random.split(KEY, 3))
    population = jit_population(policy, stacked)
    together = jax.vmap(population)(jnp.arange(3))
    for i in range(3):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            together,
            population(jnp.int32(i)),
        )


def test_members_of_low_rank_are_prepared_by_their_whole_kernels():
    policy = normalized(hidden=(5,))
    params, x = policy.init(KEY), jnp.arange(6) / 3
    kernel, a, b = params["layer0"]["kernel"], jnp.ones((6, 1)), jnp.ones((5, 1))
    low_rank, full = (
        policy.prepare(replicate(params | {"layer0": {"kernel": weights}}))(jnp.int32(0))
        for weights in (LowRank(kernel, a, b), kernel + a @ b.T)
    )
    acted = [policy.apply(member, None, x) for member in (low_rank, full)]
    np.testing.assert_allclose(*acted, rtol=1e-4, atol=1e-5)


def test_a_slot_holds_its_own_statistics_and_what_all_share_is_held_once():
    policy = normalized()
    prepared = policy.prepare(replicate(policy.init(KEY)))
    drawn = jax.eval_shape(prepared.draw, jnp.int32(0))
    sizes = sorted(leaf.shape for leaf in jax.tree.leaves(drawn))
    assert sizes == [(4,), (4,), (5,), (5,)]


@pytest.mark.slow
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.5, 20.0)])
def test_that_of_filters_is_by_channel(scale, shift):
    """It undoes what is done to references and observation alike."""
    x = jax.random.uniform(jax.random.key(1), (800,))

    def acted(scale, shift):
        policy = make_policy(
            image_task((2, 20, 20)),
            activation=jax.nn.relu,
            convolutions=(Convolution(8, 8, 4),),
            reference=100 * scale * IMAGES + np.float32(shift),
        )
        params = policy.init(KEY)
        assert set(params) == {"layer0", "norm0", "layer1"} and set(params["layer0"]) == {"kernel"}
        prepared = policy.prepare(replicate(params))(jnp.int32(0))
        assert prepared.statistics["norm0"]["mean"].shape == (8,)
        return policy.apply(prepared, None, 100 * scale * x + shift)

    np.testing.assert_allclose(acted(scale, shift), acted(1.0, 0.0), rtol=2e-2, atol=2e-3)


def test_without_a_reference_a_population_needs_no_preparation():
    population = replicate({})
    assert make_policy(vector_task()).prepare(population) is population


def test_it_needs_a_layer_to_normalize():
    with pytest.raises(ValueError, match="for layers with an activation"):
        normalized(hidden=())


def test_it_does_not_go_with_running_moments():
    with pytest.raises(ValueError, match="does not go with running moments"):
        normalized(normalize=by_running_moments())


def test_references_must_be_observations_of_the_task():
    with pytest.raises(ValueError, match=r"test/vector must have 6 features, got shape \(32, 5\)"):
        normalized(reference=REFERENCE[:, :5])
