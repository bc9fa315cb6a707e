"""Structured kernels against SciPy's matrices, and what of them lives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from nesht_jax import make_policy, make_task
from nesht_jax.policy.activation import ACTIVATIONS
from nesht_jax.policy.structure import make_structure

TASK = make_task("probe/linear", distractors=1)
KEY = jax.random.key(3)


def policy_of(hidden=(7,), **options):
    return make_policy(TASK, hidden=hidden, **options)


POLICY = policy_of()
SHAPES = [(10, 7), (7, 1)]
ENTRIES = 77


def theta_of(structure, policy=POLICY):
    theta = structure.init(KEY, policy.init(jax.random.key(1)))
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(KEY, len(leaves))
    drawn = [jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def kernels(params):
    return [np.asarray(params[layer.name]["kernel"]) for layer in POLICY.layers]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def all_of(tree, value=True):
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), tree)


@pytest.mark.slow
def test_toeplitz_kernels_are_scipys():
    structure = make_structure(POLICY.layers, "toeplitz")
    theta = theta_of(structure)
    for (rows, _), layer, kernel in zip(
        SHAPES, POLICY.layers, kernels(structure.materialize({}, theta)), strict=True
    ):
        v = np.asarray(theta[layer.name]["diagonals"])
        column, row = v[rows - 1 :: -1], v[rows - 1 :]
        np.testing.assert_array_equal(kernel, scipy.linalg.toeplitz(column, row))
    assert size(theta) == (10 + 7 - 1) + 7 + (7 + 1 - 1) + 1


def test_circulant_kernels_are_scipys_truncated():
    structure = make_structure(POLICY.layers, "circulant")
    theta = theta_of(structure)
    for shape, layer, kernel in zip(
        SHAPES, POLICY.layers, kernels(structure.materialize({}, theta)), strict=True
    ):
        whole = scipy.linalg.circulant(np.asarray(theta[layer.name]["diagonals"])).T
        np.testing.assert_array_equal(kernel, whole[: shape[0], : shape[1]])
    assert size(theta) == 10 + 7 + 7 + 1


def test_shared_kernels_have_few_weights_and_these_alone():
    structure = make_structure(POLICY.layers, "shared", colors=3)
    theta = theta_of(structure)
    assert size(theta) == 3 + 7 + 1
    colors = np.random.default_rng(0).integers(0, 3, ENTRIES)
    made = structure.materialize({"colors": jnp.asarray(colors)}, theta)
    flat = np.concatenate([kernel.ravel() for kernel in kernels(made)])
    np.testing.assert_array_equal(flat, np.asarray(theta["colors"])[colors])
    np.testing.assert_array_equal(made["layer0"]["bias"], theta["layer0"]["bias"])


def test_masked_kernels_are_gated():
    structure = make_structure(POLICY.layers, "masked")
    theta = theta_of(structure)
    for layer, kernel in zip(POLICY.layers, kernels(structure.materialize({}, theta)), strict=True):
        w, gate = (np.asarray(theta[layer.name][n], np.float64) for n in ("kernel", "gate"))
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(kernel, w / (1 + np.exp(-gate / 0.01)), atol=1e-6)
    gates = np.concatenate([np.asarray(theta[x.name]["gate"]).ravel() for x in POLICY.layers])
    np.testing.assert_array_equal(structure.edges({}, theta), gates > 0)


@pytest.mark.parametrize("chosen", ["edges", "mask"])
def test_what_is_not_chosen_does_not_live(chosen):
    structure = make_structure(POLICY.layers)
    theta = theta_of(structure)
    alive = np.zeros(ENTRIES, bool)
    alive[[3, 70, 76, 12]] = True
    architecture = {
        "edges": {"edges": jnp.array([76, 3, 12, 70])},
        "mask": {"mask": jnp.asarray(alive, jnp.int32)},
    }[chosen]
    made = kernels(structure.materialize(architecture, theta))
    flat = np.concatenate([np.asarray(x).ravel() for x in kernels(theta)])
    np.testing.assert_array_equal(
        np.concatenate([kernel.ravel() for kernel in made]), np.where(alive, flat, 0)
    )
    np.testing.assert_array_equal(structure.edges(architecture, theta), alive)


@pytest.mark.parametrize("kernel", ["dense", "toeplitz", "circulant", "masked", "shared"])
def test_an_entry_lives_if_its_weight_does_and_it_is_chosen(kernel):
    structure = make_structure(POLICY.layers, kernel, colors=3)
    theta = theta_of(structure)
    colors = np.random.default_rng(0).integers(0, 3, ENTRIES)
    given = {"edges": jnp.array([5, 76])} | (
        {"colors": jnp.asarray(colors)} if kernel == "shared" else {}
    )
    dead = structure.living(given, theta, all_of(theta, False))
    assert not any(leaf.any() for leaf in jax.tree.leaves(dead))
    living = structure.living(given, theta, all_of(theta))
    assert bool(living["layer0"]["bias"].all())
    flat = np.concatenate([kernel.ravel() for kernel in kernels(living)])
    assert set(np.flatnonzero(flat)) <= {5, 76}
    if kernel != "masked":
        assert set(np.flatnonzero(flat)) == {5, 76}


@pytest.mark.parametrize("kernel", ["dense", "masked"])
def test_theta_begins_as_the_params_do(kernel):
    params = POLICY.init(jax.random.key(1))
    theta = make_structure(POLICY.layers, kernel).init(KEY, params)
    for layer in POLICY.layers:
        np.testing.assert_array_equal(theta[layer.name]["kernel"], params[layer.name]["kernel"])


@pytest.mark.parametrize("kernel", ["toeplitz", "circulant", "shared"])
def test_theta_begins_at_zero_where_a_linear_policy_does(kernel):
    policy = policy_of((), start="zero")
    structure = make_structure(policy.layers, kernel, colors=3)
    theta = structure.init(KEY, policy.init(jax.random.key(1)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(theta))


@pytest.mark.slow
def test_units_have_the_functions_that_are_chosen():
    policy = policy_of((11,), activation=None)
    structure = make_structure(policy.layers)
    theta = theta_of(structure, policy)
    assert "activation0" not in theta
    x = jnp.linspace(-2, 2, TASK.num_features)
    order = np.random.default_rng(1).permutation(11)
    params = structure.materialize({"activations": jnp.asarray(order, jnp.int32)}, theta)
    before = np.asarray(x @ theta["layer0"]["kernel"] + theta["layer0"]["bias"])
    oracle = {
        "tanh": np.tanh,
        "relu": lambda x: max(x, 0),
        "exp": np.exp,
        "identity": lambda x: x,
        "sin": np.sin,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "abs": abs,
        "cos": np.cos,
        "square": lambda x: x * x,
        "reciprocal": lambda x: 1 / x,
        "step": lambda x: float(x > 0),
    }
    names = list(ACTIVATIONS)
    assert sorted(names) == sorted(oracle)
    after = np.array([oracle[names[n]](b) for n, b in zip(order, before, strict=True)])
    expected = after @ np.asarray(theta["layer1"]["kernel"]) + np.asarray(theta["layer1"]["bias"])
    found = policy.apply(params, None, x)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_function_overflows(name):
    x = jnp.array([-1e6, -1.0, -0.0, 0.0, 1e-30, -1e-30, 1.0, 1e6])
    assert bool(jnp.isfinite(ACTIVATIONS[name](x)).all())


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"kernel": "hankel"}, "kernel must be one of dense, .*, got 'hankel'"),
        ({"kernel": "shared", "colors": 78}, "77 entries must have 1 to 77 colors, got 78"),
        ({"kernel": "shared"}, "got None"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence, unchecked):
    with pytest.raises(ValueError, match=sentence):
        make_structure(POLICY.layers, **options)
