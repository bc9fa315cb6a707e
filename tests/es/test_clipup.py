"""ClipUp against its paper in NumPy: steps of one length, momentum, a speed limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax.es.clipup import clipup

ALPHA = 0.2
GRADIENTS = np.random.default_rng(0).normal([1, -2, 0.5, 0], 1.5, (8, 4)).astype(np.float32)


def published(gradients, *, learning_rate=ALPHA, momentum=0.9, max_speed=2 * ALPHA):
    """Every update, of the gradients of a loss. Toklu et al. 2020, algorithm 1; and how many were
    clipped."""
    velocity, updates, clipped = np.zeros(gradients.shape[1]), [], 0
    for g in np.asarray(gradients, float):
        length = np.sqrt((g**2).sum())
        step = learning_rate * g / length if length > 0 else 0.0
        velocity = momentum * velocity - step
        speed = np.sqrt((velocity**2).sum())
        if speed > max_speed:
            velocity, clipped = max_speed / speed * velocity, clipped + 1
        updates.append(velocity)
    return np.array(updates), clipped


def updates_of(optimizer, gradients):
    """Every update of a run over stacked gradients, of any pytree."""

    def step(state, gradient):
        update, state = optimizer.update(gradient, state)
        return state, update

    state = optimizer.init(jax.tree.map(lambda x: x[0], gradients))
    return jax.jit(lambda state: jax.lax.scan(step, state, gradients)[1])(state)


@pytest.mark.parametrize(
    ("rules", "clipped"),
    [
        ({"max_speed": 0.3}, "some"),
        ({"momentum": 0.5, "max_speed": 0.1}, "all"),
        ({"momentum": 0.5, "max_speed": 10.0}, "none"),
        ({"momentum": 0.0, "max_speed": 0.4}, "none"),
    ],
)
def test_updates_are_the_published_ones(rules, clipped):
    expected, number = published(GRADIENTS, **rules)
    assert clipped == {0: "none", len(GRADIENTS): "all"}.get(number, "some")
    found = updates_of(clipup(ALPHA, **rules), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_by_default_momentum_is_0_9_and_the_limit_two_steps():
    expected, clipped = published(GRADIENTS, momentum=0.9, max_speed=2 * ALPHA)
    assert 0 < clipped < len(GRADIENTS)
    found = updates_of(clipup(ALPHA), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_the_speed_of_a_steady_descent_is_the_limit():
    steady = np.tile(np.float32([3, -4]), (6, 1))
    found = updates_of(clipup(ALPHA, max_speed=0.5), steady)
    np.testing.assert_allclose(found[0], [-0.12, 0.16], rtol=1e-5)
    np.testing.assert_allclose(found[-1], [-0.3, 0.4], rtol=1e-5)


def test_a_zero_gradient_lets_the_velocity_decay():
    gradients = np.float32([[0, 0], [3, -4], [0, 0], [0, 0]])
    found = updates_of(clipup(ALPHA, momentum=0.5), gradients)
    expected = np.array([[0, 0], [-0.12, 0.16], [-0.06, 0.08], [-0.03, 0.04]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found[0] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e30, 3e37])
def test_the_size_of_a_gradient_does_not_matter(scale):
    """Squares of these leave float32's range."""
    found = updates_of(clipup(ALPHA), np.float32(scale) * GRADIENTS)
    np.testing.assert_allclose(found, published(GRADIENTS)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_any_length_of_a_step_is_kept(length):
    found = updates_of(clipup(length), GRADIENTS)
    np.testing.assert_allclose(
        found / length, published(GRADIENTS)[0] / ALPHA, rtol=1e-5, atol=1e-6
    )


def test_a_tree_has_one_length():
    names = {"kernel": (2, 3), "bias": (3,), "gain": (), "none": (0, 2)}
    rng = np.random.default_rng(1)
    tree = {name: rng.normal(size=(8, *shape)).astype(np.float32) for name, shape in names.items()}
    found = updates_of(clipup(ALPHA), tree)
    expected, _ = published(np.concatenate([leaf.reshape(8, -1) for leaf in tree.values()], 1))
    flat = np.concatenate([found[name].reshape(8, -1) for name in tree], 1)
    np.testing.assert_allclose(flat, expected, rtol=1e-5, atol=1e-7)
    assert all(found[name].shape == tree[name].shape for name in tree)


@pytest.mark.parametrize(
    "dtypes",
    [
        (jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16),
        (jnp.bfloat16, jnp.float32),
    ],
    ids=["single", "half", "mixed"],
)
def test_shapes_and_dtypes_of_a_state_stay(dtypes):
    """So that a training run is a ``lax.scan``."""
    params = {"a": jnp.ones(3, dtypes[0]), "b": jnp.ones((2, 2), dtypes[1])}
    optimizer = clipup(ALPHA)
    state = optimizer.init(params)
    updates, after = jax.eval_shape(optimizer.update, params, state)
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, after)]
    assert kinds[0] == kinds[1]
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_strong_numbers_leave_a_velocity_its_dtype(dtype):
    params = {"a": jnp.ones(3, dtype)}
    optimizer = clipup(jnp.float32(ALPHA), jnp.float32(0.9))
    _, state = optimizer.update(params, optimizer.init(params))
    assert state.velocity["a"].dtype == dtype


def test_without_leaves_there_is_nothing_to_do():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
    assert clipup(ALPHA).update({}, clipup(ALPHA).init({}))[0] == {}
    labels = {"kernel": "still", "bias": "still"}
    chain = optax.partition({"moved": clipup(ALPHA), "still": optax.set_to_zero()}, labels)
    updates, _ = chain.update(params, chain.init(params))
    assert not any(np.any(x) for x in jax.tree.leaves(updates))


def test_learners_side_by_side_are_each_alone():
    """Under ``vmap`` lengths are of one learner, and every learner may have its own step size."""
    sizes = jnp.array([0.1, 0.2, 0.5])
    gradients = np.stack([GRADIENTS, GRADIENTS[::-1], -GRADIENTS])
    found = jax.vmap(lambda size, g: updates_of(clipup(size), g))(sizes, gradients)
    for size, g, together in zip(sizes.tolist(), gradients, found, strict=True):
        expected, _ = published(g, learning_rate=size, max_speed=2 * size)
        np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-7)


def test_nothing_depends_on_jit():
    optimizer = clipup(ALPHA)
    state = optimizer.init(GRADIENTS[0])
    plain, compiled = (
        f(GRADIENTS[0], state)[0] for f in (optimizer.update, jax.jit(optimizer.update))
    )
    np.testing.assert_allclose(plain, compiled, rtol=1e-6)


def test_the_step_size_may_be_a_schedule():
    """And the default limit goes with it."""
    optimizer = optax.inject_hyperparams(clipup)(lambda count: 0.4 / (1 + count))
    found = updates_of(optimizer, GRADIENTS)
    velocity = np.zeros(4)
    for t, g in enumerate(np.float64(GRADIENTS)):
        alpha = 0.4 / (1 + t)
        velocity = 0.9 * velocity - alpha * g / np.linalg.norm(g)
        velocity *= min(1, 2 * alpha / np.linalg.norm(velocity))
        np.testing.assert_allclose(found[t], velocity, rtol=1e-4, atol=1e-7)
    rules = {"max_speed": 0.3, "momentum": 0.5}
    injected = updates_of(optax.inject_hyperparams(clipup)(ALPHA, **rules), GRADIENTS)
    np.testing.assert_allclose(injected, published(GRADIENTS, **rules)[0], rtol=1e-4, atol=1e-7)


def test_it_descends():
    """To an asymmetric optimum: a flipped sign runs away."""
    target = jnp.array([2.0, -1.0, 0.5])
    optimizer = optax.inject_hyperparams(clipup)(lambda count: 0.1 * 0.95**count)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(2 * (params - target), state)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros(3), optimizer.init(jnp.zeros(3))
    (found, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=120))(start)
    np.testing.assert_allclose(found, target, atol=0.05)
