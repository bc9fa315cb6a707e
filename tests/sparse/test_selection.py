"""Selection: decision after decision against one written in NumPy and SciPy, and what is played."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from nesht_jax.es.nes import nesht
from nesht_jax.es.shaping import identity
from nesht_jax.sparse.decisions import make_decisions
from nesht_jax.sparse.selection import STAY, TRIAL, selection
from nesht_jax.sparse.units import make_units
from nesht_jax.types import center_of, mask_of, support_of

KEY = jax.random.key(5)
ROWS, OUTPUTS, PHANTOMS = 40, 3, 64
LEVEL, EVERY, BEGIN, EXPLORE = 0.2, 3, 2, 0.25

PARAMS = {
    "layer0": {"kernel": jnp.zeros((ROWS, OUTPUTS)), "bias": jnp.ones(OUTPUTS)},
    "phantom": jnp.zeros(PHANTOMS),
}
SLOPE = np.zeros((ROWS, OUTPUTS), np.float32)
SLOPE[:6] = 0.9
"""Six of forty inputs are worth something, for a while."""


def kernel_of(tree):
    return np.asarray(tree["layer0"]["kernel"])


@functools.cache
def path_of(unit="row", *, updates=24, **options):
    """Updates, and params and state after each, before the first update first."""
    options = {"every": EVERY, "begin": BEGIN, "explore": EXPLORE} | options
    transformation = selection(level=LEVEL, unit=unit, exempt_bias=True, **options)

    def update(carry, number):
        params, state = carry
        key = jax.random.fold_in(KEY, number)
        noise = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), PARAMS)
        drift = SLOPE * jnp.where(number < 12, 1.0, -2.0)
        noise["layer0"]["kernel"] += drift
        updates, state = transformation.update(noise, state, params, key=key)
        return (optax.apply_updates(params, updates), state), (noise, params, state)

    start = PARAMS, transformation.init(PARAMS)
    (params, state), (noise, before, states) = jax.jit(
        lambda s: jax.lax.scan(update, s, jnp.arange(updates))
    )(start)
    whole = jax.tree.map(lambda a, b: np.concatenate([a, b[None]]), before, params)
    del state
    steps = [jax.tree.map(lambda leaf, i=i: leaf[i], noise) for i in range(updates)]
    return steps, [
        (
            jax.tree.map(lambda leaf, i=i: leaf[i], whole),
            start[1] if i == 0 else jax.tree.map(lambda leaf, i=i: leaf[i - 1], states),
        )
        for i in range(updates + 1)
    ]


def oracle(unit, *, end=None, updates=24, **options):
    """θ, what lives and what is promising after each update, by the docstring, row by row.

    What is tried is drawn at random, so that is taken from the state, and checked by other tests.
    """
    steps, path = path_of(unit, end=end, updates=updates, **options)
    shape = (ROWS,) if unit == "row" else (ROWS, OUTPUTS)
    theta, phantoms = np.zeros((ROWS, OUTPUTS)), np.zeros(PHANTOMS)
    lives, walk = np.zeros(shape, bool), np.zeros(shape)
    found = []
    for number in range(updates):
        tried = kernel_of(path[number][1].support)
        theta = theta + np.where(tried, kernel_of(steps[number]), 0)
        phantoms = phantoms + np.asarray(steps[number]["phantom"])
        promising = None
        is_due = number >= BEGIN and (number - BEGIN) % EVERY == 0
        if is_due and (end is None or number < end):
            walk = walk + np.mean(phantoms**2) * (tried.all(1) if unit == "row" else tried)
            size = OUTPUTS if unit == "row" else 1
            energy = (theta**2).sum(1) if unit == "row" else theta**2
            with np.errstate(invalid="ignore", divide="ignore"):
                p = stats.f.sf(energy / size / walk, size, PHANTOMS)
            p = np.where(walk > 0, p, 1.0)
            promising = p <= TRIAL * (1 - number / end if end else 1)
            significant = stats.false_discovery_control(p.ravel()).reshape(shape) <= LEVEL
            lives = significant | (lives & (p <= STAY))
            promising = promising | lives
            phantoms = np.zeros(PHANTOMS)
            if end is not None and number + EVERY >= end:
                spread = lives[:, None] if unit == "row" else lives
                theta = np.where(spread, theta, 0)
        found.append((theta, lives, promising))
    return path, found


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["row", "weight"])
@pytest.mark.parametrize("end", [None, 13])
def test_every_decision_is_that_of_the_oracle(unit, end):
    path, found = oracle(unit, end=end)
    numbers = set()
    for (params, state), (theta, lives, _) in zip(path[1:], found, strict=True):
        np.testing.assert_allclose(kernel_of(params), theta, rtol=1e-4, atol=1e-5)
        mask = kernel_of(state.mask)
        np.testing.assert_array_equal(mask.all(1) if unit == "row" else mask, lives)
        numbers.add(int(lives.sum()))
    assert len(numbers) >= 3  # decisions differ


@pytest.mark.parametrize("unit", ["row", "weight"])
def test_what_is_promising_is_tried_and_a_share_of_the_rest(unit):
    path, found = oracle(unit)
    others = []
    for (_, state), (_, _, promising) in zip(path[1:], found, strict=True):
        if promising is None:
            continue
        support = kernel_of(state.support)
        tried = support.all(1) if unit == "row" else support
        assert tried[promising].all() and state.support["phantom"].all()
        assert state.support["layer0"]["bias"].all()
        others.append(tried[~promising])
    drawn = np.concatenate(others)
    error = np.sqrt(EXPLORE * (1 - EXPLORE) / drawn.size)
    assert abs(drawn.mean() - EXPLORE) < 4 * error


@pytest.mark.parametrize("unit", ["row", "weight"])
def test_what_is_promising_narrows_to_the_end(unit):
    """Of the others none is tried here."""
    path, found = oracle(unit, end=19, explore=0.0)
    for (_, state), (_, _, promising) in zip(path[1:], found, strict=True):
        if promising is not None:
            support = kernel_of(state.support)
            np.testing.assert_array_equal(support.all(1) if unit == "row" else support, promising)


def test_the_share_of_the_others_falls_to_the_end():
    units, decisions = make_units(), make_decisions(3, 2, 20, 0.4)
    dead = {"kernel": jnp.zeros((100, 100), bool)}
    for updates, share in [(0, 0.4), (5, 0.3), (15, 0.1)]:
        support = decisions.next_support(units, dead, dead, KEY, jnp.int32(updates))
        assert abs(support["kernel"].mean() - share) < 4 * np.sqrt(share * (1 - share)) / 100


def test_nothing_lives_before_the_first_decision_and_all_is_tried():
    _, path = path_of()
    for params, state in path[: BEGIN + 1]:
        assert not kernel_of(state.mask).any() and kernel_of(state.support).all()
        assert state.mask["layer0"]["bias"].all() and not state.mask["phantom"].any()
        assert not kernel_of(center_of(params, state)).any()
    assert path[BEGIN][0]["layer0"]["kernel"].all()


def test_what_no_longer_matters_dies_and_is_forgotten_by_none():
    """The drift turns after update 12: what lived comes back to 0, and dies; the dead keep θ."""
    _, path = path_of()
    lived = kernel_of(path[12][1].mask).all(1)
    dead = lived & ~kernel_of(path[-1][1].mask).any(1)
    assert lived.sum() >= 4 and dead.any()
    assert kernel_of(path[-1][0])[dead].all()


def test_untried_units_keep_what_they_have_gathered():
    _, path = path_of()
    for (params, state), (after, _) in zip(path[BEGIN + 1 :], path[BEGIN + 2 :], strict=False):
        moved = (kernel_of(params) != kernel_of(after)).any(1)
        np.testing.assert_array_equal(moved, kernel_of(state.support).all(1))
    assert (~moved).any() and kernel_of(after)[~moved].any()


def test_phantoms_begin_anew_at_every_decision():
    _, path = path_of()
    for number, (params, _) in enumerate(path):
        is_decided = number > BEGIN and (number - BEGIN - 1) % EVERY == 0
        assert params["phantom"].any() != (is_decided or number == 0)


def test_after_the_last_decision_only_what_lives_moves():
    _, path = path_of(end=13)
    last = 12  # updates 3, 6, 9 and 12 decide
    params, state = path[last]
    alive = kernel_of(state.mask)
    assert alive.any() and not alive.all()
    np.testing.assert_array_equal(kernel_of(params) != 0, alive)
    for (params, state), (after, _) in zip(path[last:], path[last + 1 :], strict=False):
        np.testing.assert_array_equal(kernel_of(state.mask), alive)
        np.testing.assert_array_equal(kernel_of(state.support), alive)
        np.testing.assert_array_equal(kernel_of(params) != kernel_of(after), alive)


def test_all_may_be_tried_always():
    """Then there is no support, so that perturbations of low rank may go with it."""
    transformation = selection(explore=1.0, every=1)
    state = transformation.init(PARAMS)
    updates, state = transformation.update(PARAMS, state, PARAMS)
    assert state.support is None and support_of(state, PARAMS) is None


# -------------------------------------------------------------------------------- in a search


def searched(generations=4):
    transformation = selection(level=0.5, every=2, explore=0.3)
    algorithm = nesht(
        num_members=8,
        sigma=0.5,
        optimizer=optax.chain(optax.sgd(0.3), transformation),
        shaping=identity,
    )
    state = algorithm.init(KEY, jax.tree.map(lambda leaf: leaf + 1, PARAMS))
    states = [state]
    for number in range(generations):
        kernels = algorithm.ask(state)["layer0"]["kernel"]
        worth = jnp.sum(kernels * SLOPE[None], (1, 2))
        state, _ = algorithm.tell(state, worth + jax.random.normal(jax.random.key(number), (8,)))
        states.append(state)
    return algorithm, states


@pytest.mark.slow
def test_members_stand_on_what_lives_and_differ_on_the_support():
    """The mean of a mirrored pair is the center: θ where it lives, 0 where it does not."""
    algorithm, states = searched()
    assert not kernel_of(states[0].params).any()  # a search begins with nothing
    dead_evidence = 0
    for state in states:
        members = np.asarray(algorithm.ask(state)["layer0"]["kernel"])
        center = kernel_of(center_of(state.params, state.optimizer))
        for pair in members.reshape(4, 2, ROWS, OUTPUTS):
            np.testing.assert_allclose(pair.mean(0), center, atol=1e-6)
            moved = pair[0] != pair[1]
            np.testing.assert_array_equal(moved, kernel_of(support_of(state.optimizer, PARAMS)))
        mask = kernel_of(mask_of(state.optimizer, state.params))
        np.testing.assert_array_equal(center, np.where(mask, kernel_of(state.params), 0))
        dead_evidence += np.count_nonzero(kernel_of(state.params)[~mask])
    assert dead_evidence > 100


# --------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"level": 0.0}, r"level must be in \(0, 1\), got 0.0"),
        ({"level": 1}, r"level must be in \(0, 1\), got 1"),
        ({"level": float("nan")}, r"level must be in \(0, 1\), got nan"),
        ({"level": np.float32(2)}, r"level must be in \(0, 1\), got 2"),
        ({"explore": 1.5}, r"explore must be in \[0, 1\], got 1.5"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"begin": -1}, "begin must be at least 0, got -1"),
        ({"begin": 4, "end": 4}, "end must be more than begin, 4, got 4"),
        ({"unit": "rows"}, "unit must be one of weight, row, got 'rows'"),
        ({"scope": "layers"}, "all, layer or a function of the path, got"),
    ],
)
def test_impossible_values_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        selection(**arguments)


def test_params_that_cannot_be_selected_from_are_refused_when_the_state_is_made():
    with pytest.raises(ValueError, match="selection needs phantoms"):
        selection().init({"kernel": jnp.zeros((3, 2))})
    with pytest.raises(TypeError, match="floating-point"):
        selection().init({"kernel": jnp.zeros((3, 2), jnp.int32), "phantom": jnp.zeros(4)})


def test_without_a_key_a_share_is_refused():
    transformation = selection()
    with pytest.raises(ValueError, match="needs? key="):
        transformation.update(PARAMS, transformation.init(PARAMS), PARAMS)


def test_updates_in_half_precision_are_taken():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    optimizer = selection(every=1)
    updates, _ = optimizer.update(half, optimizer.init(PARAMS), PARAMS, key=KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("explore", [1.0, 0.5])
def test_no_dtype_is_promoted_and_the_state_keeps_its_shapes(explore, x64):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        for params in (PARAMS, half):
            transformation = selection(explore=explore, end=9)
            state = jax.eval_shape(transformation.init, params)
            _, after = jax.eval_shape(
                lambda s, t=transformation, p=params: t.update(p, s, p, key=KEY), state
            )
            assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
                lambda x: (x.shape, x.dtype), state
            )
