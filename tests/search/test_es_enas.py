"""ES-ENAS: who plays what, who learns from whom, and planted architectures that it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax import nesht, standardize
from nesht_jax.policy.structure import make_structure
from nesht_jax.search.controller import fixed, random_search
from nesht_jax.search.es_enas import es_enas, fewer_edges, target_edges
from nesht_jax.search.evolution import regularized_evolution
from nesht_jax.search.policy_gradient import policy_gradient
from nesht_jax.search.space import choices, product, subset
from nesht_jax.types import Layer

LAYERS = (Layer("layer0", "dense", "layer0/kernel", (60, 1), "observation"),)
THETA = {"layer0": {"kernel": jnp.zeros((60, 1)), "bias": jnp.zeros(1)}}
PLANTED = jnp.zeros(60).at[:6].set(jnp.array([1.0, -2.0, 3.0, -1.0, 2.0, 1.5]))
MEMBERS, CENTER = 100, 50
EDGES = product({"edges": subset(60, 6)})
CONTROLLERS = {
    "random": random_search(EDGES),
    "evolution": regularized_evolution(EDGES, population_size=MEMBERS + CENTER),
    "policy_gradient": policy_gradient(EDGES),
}


def nes(members=MEMBERS, sigma=0.1):
    return nesht(num_members=members, sigma=sigma, optimizer=optax.sgd(0.05), shaping=standardize)


def searching(controller, *, structure=None, members=MEMBERS, center=CENTER, **options):
    return es_enas(
        nes(members),
        controller,
        structure or make_structure(LAYERS),
        num_members=members,
        num_center=center,
        **options,
    )


def fitness_of(params):
    return -jnp.sum((params["layer0"]["kernel"][:, 0] - PLANTED) ** 2)


def assert_same(a, b):
    def data(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data(x), data(y)), a, b)


def trained(algorithm, generations, *, seed=0, theta=THETA, fitness=fitness_of):
    def generation(state, _):
        return algorithm.tell(state, jax.vmap(fitness)(algorithm.ask(state)))

    state = algorithm.init(jax.random.key(seed), theta)
    return jax.lax.scan(generation, state, None, generations)


# --------------------------------------------------------------------------- the planted answers


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_planted_edges_are_found_by_who_learns(name):
    """Of 60 edges 6 count, and θ = 0 has -21.25; three seeds."""
    controller = CONTROLLERS[name]
    algorithm = searching(controller)
    run = jax.jit(jax.vmap(lambda seed: trained(algorithm, 200, seed=seed)))
    states, infos = run(jnp.arange(3))
    center = np.asarray(infos.center_fitness[:, -1])
    best = jax.vmap(controller.best)(states.search)["edges"]
    found = [len(set(edges) & set(range(6))) for edges in best.tolist()]
    if name == "random":
        assert (center < -18).all()
    elif name == "evolution":
        assert (center > -13).all()
    else:
        assert (center > -0.2).all() and found == [6, 6, 6]
        assert (np.asarray(infos.distinct_architectures[:, -1]) < 10).all()


@pytest.mark.slow
def test_planted_colors_are_found_whatever_they_are_called():
    space = product({"colors": choices(24, 3)})
    planted = jnp.array([2.0, -1.0, 0.5])[jnp.arange(24) % 3]
    layers = (Layer("layer0", "dense", "layer0/kernel", (24, 1), "observation"),)
    structure = make_structure(layers, "shared", colors=3)
    theta = {"colors": jnp.array([0.1, 0.0, -0.1]), "layer0": {"bias": jnp.zeros(1)}}

    def fitness(params):
        return -jnp.sum((params["layer0"]["kernel"][:, 0] - planted) ** 2)

    best = {}
    for name, controller in (
        ("random", random_search(space)),
        ("policy_gradient", policy_gradient(space)),
    ):
        algorithm = searching(controller, structure=structure)
        run = jax.jit(lambda a=algorithm: trained(a, 250, theta=theta, fitness=fitness))
        best[name] = float(run()[1].center_fitness[-1])
    spread = float(-jnp.sum((planted - planted.mean()) ** 2))
    assert best["random"] < 0.8 * spread
    assert best["policy_gradient"] > 0.1 * spread


# ------------------------------------------------------------------------------------ who plays


def small(controller=None, **options):
    controller = controller or CONTROLLERS["policy_gradient"]
    return searching(controller, members=8, center=4, **options)


@pytest.mark.slow
def test_members_are_the_algorithms_with_an_architecture_of_their_own():
    algorithm, inner, structure = small(), nes(8), make_structure(LAYERS)
    theta = jax.tree.map(lambda x: x + 0.5, THETA)
    state = algorithm.init(jax.random.key(1), theta)._replace(generation=jnp.int32(3))
    together, population = algorithm.ask(state), algorithm.population(state)
    masks = set()
    for i in range(12):
        member = algorithm.member(state, i)
        assert_same(member, jax.tree.map(lambda x, i=i: x[i], together))
        assert_same(member, population(i))
        weights = theta if i >= 8 else inner.member(state, i)
        kernel = np.asarray(member["layer0"]["kernel"])
        alive = np.flatnonzero(kernel)
        assert len(alive) == 6
        assert_same(kernel[alive], np.asarray(weights["layer0"]["kernel"])[alive])
        masks.add(tuple(alive))
    assert len(masks) == 12  # mirrored pairs and the center's members too
    assert structure.num_edges == 60


@pytest.mark.slow
def test_the_weights_learn_as_the_algorithm_does_from_the_first_members_alone():
    algorithm, inner = small(), nes(8)
    state = algorithm.init(jax.random.key(1), THETA)
    fitness = jnp.cos(jnp.arange(12.0))
    after, info = jax.jit(algorithm.tell)(state, fitness)
    alone, inner_info = jax.jit(inner.tell)(inner.init(jax.random.key(1), THETA), fitness[:8])
    assert_same(after.params, alone.params)
    assert float(info.fitness_mean) == float(inner_info.fitness_mean)
    assert float(info.center_fitness) == pytest.approx(float(fitness[8:].mean()))
    assert float(info.edges) == 6


@pytest.mark.slow
def test_the_controller_learns_from_all():
    algorithm = small(regularized_evolution(EDGES, population_size=12))
    state = algorithm.init(jax.random.key(1), THETA)
    fitness = jnp.cos(jnp.arange(12.0))
    after, _ = jax.jit(algorithm.tell)(state, fitness)
    np.testing.assert_array_equal(after.search.fitness, fitness)
    alive = np.asarray(jax.vmap(jnp.sort)(after.search.architectures["edges"]))
    theta = jax.tree.map(lambda x: x + 1.0, THETA)
    kernels = np.asarray(algorithm.ask(state._replace(params=theta))["layer0"]["kernel"])[..., 0]
    np.testing.assert_array_equal([np.flatnonzero(row) for row in kernels], alive)


@pytest.mark.slow
def test_who_failed_counts_as_the_worst_and_nobody_learns_from_nobody():
    algorithm = small(regularized_evolution(EDGES, population_size=12))
    state = algorithm.init(jax.random.key(1), THETA)
    fitness = jnp.arange(12.0).at[3].set(jnp.nan).at[10].set(jnp.inf)
    tell = jax.jit(algorithm.tell)
    after, info = tell(state, fitness)
    assert after.search.fitness[3] == after.search.fitness[10] == 0
    assert float(info.center_fitness) == pytest.approx((8 + 9 + 11) / 3)
    after, _ = tell(state, jnp.full(12, jnp.nan))
    assert_same(after.search, state.search)
    assert int(after.generation) == 1


@pytest.mark.slow
def test_architectures_are_kept_for_some_generations():
    algorithm = small(regularized_evolution(EDGES, population_size=12), every=3)
    theta = jax.tree.map(lambda x: x + 1.0, THETA)
    state = algorithm.init(jax.random.key(1), theta)

    def alive(state):
        return np.asarray(algorithm.ask(state)["layer0"]["kernel"][..., 0] != 0)

    seen, tells = [], jax.jit(algorithm.tell)
    for generation in range(6):
        seen.append(alive(state))
        learned = int(state.search.told)
        state, _ = tells(state, jnp.arange(12.0))
        assert int(state.search.told) - learned == (12 if generation % 3 == 2 else 0)
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[3], seen[5])
    assert (seen[0] != seen[3]).any()


@pytest.mark.slow
def test_the_controller_may_learn_from_a_few():
    algorithm = small(regularized_evolution(EDGES, population_size=12), samples=5)
    state = algorithm.init(jax.random.key(1), THETA)
    fitness, chosen, tell = jnp.arange(12.0), set(), jax.jit(algorithm.tell)
    for _ in range(40):
        before = int(state.search.told)
        state, _ = tell(state, fitness)
        told = state.search.fitness[-5:].tolist()
        assert len(set(told)) == 5
        chosen |= set(told)
        assert int(state.search.told) - min(before, 12) == 5
    assert chosen == set(range(12))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"samples": 13}, "1 to 12, the members of all, got 13"),
        ({"every": 0}, "at least 0 and 1: 4, 0"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**options)


@pytest.mark.slow
def test_without_a_search_the_structure_alone_is_trained():
    structure = make_structure(LAYERS, "toeplitz")
    theta = structure.init(jax.random.key(0), THETA)
    algorithm = searching(fixed({}), structure=structure, center=0)
    state, infos = jax.jit(lambda: trained(algorithm, 100, theta=theta))()
    kernel = structure.materialize({}, state.params)["layer0"]["kernel"][:, 0]
    np.testing.assert_allclose(kernel, PLANTED, atol=0.3)  # one diagonal an entry
    assert infos.center_fitness is None
    assert float(infos.edges[-1]) == 60


# ------------------------------------------------------------------------------ what is maximized


def test_a_target_costs_who_has_more():
    fitness, edges = jnp.array([-4.0, 6.0, 6.0, jnp.nan]), jnp.array([10, 64, 128, 3])
    z = np.array([-1.0, 1.0, 1.0, -1.0])  # what failed counts as the worst
    goal = target_edges(64)(fitness, edges, jnp.int32(0))
    np.testing.assert_allclose(goal, [*(z[:3] + 10) / [1, 1, 2], np.nan], rtol=1e-6)
    soft = target_edges(64, omega=-0.5)(fitness, edges, jnp.int32(0))
    np.testing.assert_allclose(soft[2], 11 / 2**0.5, rtol=1e-6)
    elsewhere = target_edges(64)(3 * fitness - 1e3, edges, jnp.int32(0))
    np.testing.assert_allclose(elsewhere, goal, rtol=1e-5)


def test_no_outlier_is_rewarded_for_its_edges():
    fitness = jnp.zeros(400).at[0].set(-1e6)
    goals = [target_edges(64)(fitness, jnp.full(400, e), jnp.int32(0))[0] for e in (64, 128)]
    assert goals == [0, 0]


def test_smallness_is_worth_what_the_schedule_says():
    fitness, edges = jnp.array([1.0, 3.0, jnp.nan, 2.0]), jnp.array([5, 9, 1, 7])
    objective = fewer_edges(optax.linear_schedule(0.0, 1.0, 10))
    start, end = (np.asarray(objective(fitness, edges, jnp.int32(g))) for g in (0, 10))
    np.testing.assert_allclose(start, np.where(np.isnan(fitness), np.nan, standardize(fitness)))
    assert np.argsort(end[[0, 1, 3]]).tolist() == [1, 2, 0]
    assert np.isnan(end[2])


@pytest.mark.slow
def test_a_target_brings_the_edges_down():
    """All of 60 masks are worth something, but 20 are worth more each than what they cost."""
    space = product({"mask": choices(60, 2)})
    worth = jnp.where(jnp.arange(60) < 10, 1.0, 0.02)
    theta = jax.tree.map(lambda x: x + 1.0, THETA)

    def fitness(params):
        return jnp.sum(worth * (params["layer0"]["kernel"][:, 0] != 0))

    ends = []
    for objective in (None, target_edges(20)):
        algorithm = searching(policy_gradient(space), objective=objective)
        run = jax.jit(lambda a=algorithm: trained(a, 150, theta=theta, fitness=fitness))
        _, infos = run()
        assert float(infos.edges[0]) == pytest.approx(30, abs=2)
        ends.append((float(infos.edges[-1]), float(infos.center_fitness[-1])))
    (free, _), (bound, kept) = ends
    assert free > 40
    assert bound < 26 and kept > 8
