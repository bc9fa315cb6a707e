"""Controllers against planted answers and independent oracles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.search.controller import fixed, random_search
from nesht_jax.search.evolution import regularized_evolution
from nesht_jax.search.policy_gradient import policy_gradient
from nesht_jax.search.space import choices, product, subset

KEY = jax.random.key(2)
SPACE = product({"edges": subset(12, 3), "mask": choices(5, 2)})


def proposals(controller, state, number, key=KEY):
    return jax.vmap(controller.propose, (None, None, 0))(state, key, jnp.arange(number))


def mask_value(architectures):
    return architectures["mask"].sum(1).astype(jnp.float32)


CONTROLLERS = {
    "random": random_search(SPACE),
    "evolution": regularized_evolution(SPACE, population_size=16),
    "policy_gradient": policy_gradient(SPACE, batch=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_proposal_is_a_function_of_state_key_and_number(name):
    controller = CONTROLLERS[name]
    state = controller.init(KEY)
    for _ in range(2):
        together = proposals(controller, state, 16)
        alone = controller.propose(state, KEY, 7)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[7], y), together, alone)
        state = controller.update(state, KEY, together, mask_value(together))


@pytest.mark.parametrize("name", CONTROLLERS)
def test_states_keep_their_shapes_and_types(name):
    controller = CONTROLLERS[name]
    state = controller.init(KEY)
    told = proposals(controller, state, 16)
    after = controller.update(state, KEY, told, mask_value(told))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    jax.tree.map(
        lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype) or pytest.fail(), state, after
    )


def climbed(controller, generations=40, number=16):
    """Mean value of the proposals, and of the best, after some generations."""

    @jax.jit
    def generation(state, key):
        told = proposals(controller, state, number, key)
        return controller.update(state, key, told, mask_value(told)), mask_value(told).mean()

    state, means = jax.lax.scan(
        generation, controller.init(KEY), jax.random.split(KEY, generations)
    )
    return float(means[-1]), int(controller.best(state)["mask"].sum())


@pytest.mark.slow
def test_who_learns_climbs_and_chance_does_not():
    assert abs(climbed(CONTROLLERS["random"])[0] - 2.5) < 1
    assert climbed(CONTROLLERS["evolution"]) > (3.8, 4)
    assert climbed(CONTROLLERS["policy_gradient"], generations=80) > (4.5, 4)


def test_the_best_of_chance_is_that_of_the_last_generation():
    controller = CONTROLLERS["random"]
    told = proposals(controller, controller.init(KEY), 16)
    state = controller.update(controller.init(KEY), KEY, told, -jnp.abs(jnp.arange(16.0) - 9))
    best = controller.best(state)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[9], y), told, best)


# ------------------------------------------------------------------------------------- evolution


def parents(population_size, tournament_size, fitness, number=40_000):
    """Which of the population is the parent of each proposal, in a space where none mutates."""
    space = choices(1, 1)._replace(
        draw=lambda key, logits: jnp.zeros(1, jnp.int32),
        mutate=lambda key, architecture: architecture,
    )
    controller = regularized_evolution(
        space, population_size=population_size, tournament_size=tournament_size
    )
    names = jnp.arange(population_size, dtype=jnp.int32)[:, None]
    state = controller.update(controller.init(KEY), KEY, names, jnp.asarray(fitness, jnp.float32))
    return np.asarray(proposals(controller, state, number))[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("n, t", [(6, 1), (6, 3), (6, 6)])
def test_parents_are_winners_of_tournaments_without_replacement(n, t):
    fitness = [3.0, -1.0, 7.0, 2.0, 0.0, 5.0]
    rng = np.random.default_rng(0)
    played = np.array([rng.choice(n, t, replace=False) for _ in range(40_000)])
    winners = played[np.arange(len(played)), np.argmax(np.array(fitness)[played], axis=1)]
    expected = np.bincount(winners, minlength=n) / len(winners)
    found = np.bincount(parents(n, t, fitness), minlength=n) / 40_000
    assert np.abs(found - expected).max() < 4.5 * math.sqrt(2 * 0.25 / 40_000)


@pytest.mark.slow
def test_the_usual_tournament_is_the_root_of_the_population():
    """√150 rounded down is 12, whose best wins with probability 12/150."""
    found = parents(150, None, np.arange(150.0))
    assert abs((found == 149).mean() - 12 / 150) < 0.007


@pytest.mark.slow
def test_the_first_proposals_are_uniform_draws():
    controller = regularized_evolution(choices(3, 4), population_size=10)
    drawn = np.asarray(proposals(controller, controller.init(KEY), 8000))
    for column in drawn.T:
        assert np.abs(np.bincount(column, minlength=4) / 8000 - 0.25).max() < 0.025


def test_the_oldest_die_however_good():
    controller = regularized_evolution(choices(1, 50), population_size=6, tournament_size=2)
    state = controller.init(KEY)
    for first in (0, 4, 8):
        told = jnp.arange(first, first + 4, dtype=jnp.int32)[:, None]
        state = controller.update(state, KEY, told, -told[:, 0].astype(jnp.float32))
    assert state.architectures[:, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert controller.best(state).tolist() == [6]
    assert int(state.told) == 10


@pytest.mark.parametrize("size", [0, 11])
def test_a_tournament_is_no_larger_than_the_population(size):
    with pytest.raises(ValueError, match=f"1 to 10 of the population, got {size}"):
        regularized_evolution(SPACE, population_size=10, tournament_size=size)


# ------------------------------------------------------------------------------- policy gradient


@pytest.mark.slow
def test_the_first_step_is_that_of_reinforce():
    """At ratio 1 the clipped objective has the gradient Σ A ∇ log p, and Adam takes its sign."""
    space = choices(4, 3)
    controller = policy_gradient(space, learning_rate=0.1, batch=50, updates=1, entropy=0.0)
    state = controller.init(KEY)
    told = proposals(controller, state, 50)
    fitness = jnp.sin(jnp.arange(50.0)) * 3 + 8
    after = controller.update(state, KEY, told, fitness)
    advantage = (np.asarray(fitness) - float(fitness.mean())) / float(fitness.std())
    one_hot = np.eye(3)[np.asarray(told)] - 1 / 3
    gradient = np.einsum("p,pnc->nc", advantage, one_hot) / 50
    np.testing.assert_allclose(after.logits, 0.1 * np.sign(gradient), rtol=1e-3)


@pytest.mark.slow
def test_ratios_beyond_the_clip_push_no_further():
    """Of one good and one bad choice, the logits move until p is 1.2 of what it was, then stop."""
    space = choices(1, 2)
    controller = policy_gradient(space, learning_rate=0.05, batch=2, updates=200, entropy=0.0)
    state = controller.update(
        controller.init(KEY), KEY, jnp.array([[0], [1]]), jnp.array([1.0, -1.0])
    )
    p = float(jax.nn.softmax(state.logits[0])[0])
    assert 0.6 <= p < 0.85  # Adam's momentum carries it past 0.6
    free = policy_gradient(space, learning_rate=0.05, batch=2, updates=200, entropy=0.0, clip=100.0)
    state = free.update(free.init(KEY), KEY, jnp.array([[0], [1]]), jnp.array([1.0, -1.0]))
    assert float(jax.nn.softmax(state.logits[0])[0]) > 0.99


@pytest.mark.slow
def test_equal_fitness_teaches_nothing():
    controller = policy_gradient(choices(3, 2), entropy=0.0)
    state = controller.init(KEY)
    told = proposals(controller, state, 20)
    after = controller.update(state, KEY, told, jnp.full(20, 3.25))
    np.testing.assert_array_equal(after.logits, state.logits)


def test_entropy_flattens_what_fitness_does_not_hold():
    controller = policy_gradient(choices(3, 2), entropy=0.5)
    state = controller.init(KEY)
    state = state._replace(logits=state.logits.at[:, 0].set(2.0))
    told = proposals(controller, state, 20)
    after = controller.update(state, KEY, told, jnp.zeros(20))
    assert controller_entropy(after) > controller_entropy(state)


def controller_entropy(state):
    return float(choices(3, 2).entropy(state.logits))


@pytest.mark.parametrize("options", [{"batch": 0}, {"updates": 0}])
def test_nothing_to_learn_from_is_refused(options):
    with pytest.raises(ValueError, match="at least 1, got"):
        policy_gradient(SPACE, **options)


def test_what_is_fixed_stays():
    controller = fixed({"mask": jnp.array([1, 0])})
    state = controller.init(KEY)
    told = proposals(controller, state, 3)
    assert controller.update(state, KEY, told, jnp.zeros(3)) == state == ()
    assert controller.best(state)["mask"].tolist() == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("value", [12.3, -115.683])
def test_equal_fitness_leaves_a_policy_gradient_as_it_can_learn(value):
    controller = policy_gradient(choices(20, 2), entropy=0.0)
    state = controller.init(KEY)
    architectures = proposals(controller, state, 150)
    flat = controller.update(state, KEY, architectures, jnp.full(150, value))
    assert not np.asarray(flat.logits).any()
    assert np.abs(np.asarray(flat.optimizer[0].nu)).max() == 0
    after = controller.update(flat, KEY, architectures, architectures.sum(1).astype(jnp.float32))
    assert (np.asarray(after.logits)[:, 1] > np.asarray(after.logits)[:, 0]).all()


@pytest.mark.slow
def test_a_policy_gradient_of_large_fitness_is_that_of_the_same_in_other_units():
    controller = policy_gradient(choices(6, 2))
    state = controller.init(KEY)
    architectures = proposals(controller, state, 64)
    fitness = jax.random.normal(KEY, (64,))
    wanted = controller.update(state, KEY, architectures, fitness).logits
    found = controller.update(state, KEY, architectures, 1e38 * fitness).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_policy_gradient_stays_finite_in_a_space_of_very_many_decisions():
    controller = policy_gradient(choices(30_000, 2))
    state = controller.init(KEY)
    architectures = proposals(controller, state, 64)
    fitness = jax.random.normal(jax.random.key(7), (64,))
    logits = controller.update(state, KEY, architectures, fitness).logits
    assert np.abs(np.asarray(logits)).max() < 1
    assert np.asarray(logits).any()
