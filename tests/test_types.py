"""The records that parts hand to one another: populations, moments, tasks, layers and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nesht_jax.sparse.hard_thresholding import hard_thresholding, sparsify
from nesht_jax.sparse.projection import Projection
from nesht_jax.sparse.units import Units
from nesht_jax.types import (
    Layer,
    LowRank,
    Moments,
    Population,
    SparseState,
    Task,
    is_low_rank,
    is_phantom,
    mask_of,
    replicate,
    sparsity_of,
    support_of,
)


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# --------------------------------------------------------------------------------- populations


def scaled(scale, i):
    return {"w": scale * i}


def shifted(center, drawn):
    return jax.tree.map(jnp.add, center, drawn)


CENTER = {"w": jnp.array([1.0, -2.0])}
POPULATION = Population(
    jax.tree_util.Partial(scaled, jnp.array([0.5, 3.0])),
    jax.tree_util.Partial(shifted, CENTER),
)


def test_a_member_is_assembled_from_what_is_drawn():
    equal(POPULATION(2), {"w": np.float32([2, 4])})
    equal(POPULATION.assemble(POPULATION.draw(2)), POPULATION(2))


def test_without_assembly_all_params_are_drawn():
    equal(Population(POPULATION.draw)(2), {"w": np.float32([1, 6])})


def test_a_population_crosses_jit_and_vmap():
    @jax.jit
    def members(population, indices):
        drawn = jax.vmap(population.draw)(indices)
        return jax.vmap(population.assemble)(drawn)

    equal(members(POPULATION, jnp.arange(3.0)), {"w": np.float32([[1, -2], [1.5, 1], [2, 4]])})


def test_members_of_replicate_share_all_and_draw_nothing():
    population = replicate(CENTER)
    assert jax.tree.leaves(population.draw(jnp.int32(5))) == []
    for i in (0, 7):
        equal(population(jnp.int32(i)), CENTER)
    equal(jax.jit(lambda population: population(jnp.int32(3)))(population), CENTER)


def test_a_low_rank_leaf_multiplies_as_the_matrix_it_stands_for():
    normal = np.random.default_rng(0).normal
    w, a, b, x = (np.float32(normal(size=s)) for s in ((4, 3), (4, 2), (3, 2), (5, 4)))
    leaf = LowRank(*map(jnp.asarray, (w, a, b)))
    np.testing.assert_allclose(jnp.asarray(x) @ leaf, x @ (w + a @ b.T), rtol=1e-5)
    assert is_low_rank(leaf) and not is_low_rank(w)


# ------------------------------------------------------------------------------------- moments

ROWS = np.random.default_rng(0).normal([5.0, -300.0, 0.0], [1.0, 20.0, 0.0], (24, 3))
ROWS = ROWS.astype(np.float32)
EMPTY = Moments.empty(3)

of_batch = jax.jit(Moments.of_batch)
merged = jax.jit(Moments.merge)
merged_all = jax.jit(Moments.merge_all)


def is_numpy(moments, rows):
    """Number, mean and deviation of the rows, in float64."""
    rows = np.float64(rows)
    mean = rows.mean(0) if len(rows) else np.zeros(3)
    assert moments.number == len(rows)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.deviation, ((rows - mean) ** 2).sum(0), rtol=1e-4, atol=1e-3)


def part(owner, owners):
    return of_batch(ROWS, np.array(owners) == owner)


SPLITS = st.lists(st.integers(0, 2), min_size=len(ROWS), max_size=len(ROWS))


@settings(deadline=None, max_examples=50)
@given(SPLITS)
def test_merging_any_split_is_numpy_on_the_whole_in_either_order(owners):
    a, b, c = (part(i, owners) for i in range(3))
    is_numpy(merged(merged(a, b), c), ROWS)
    is_numpy(merged(a, merged(b, c)), ROWS)


@settings(deadline=None, max_examples=50)
@given(SPLITS)
def test_merging_all_parts_at_once_is_numpy_on_the_whole(owners):
    parts = jax.tree.map(lambda *x: np.stack(x), *(part(i, owners) for i in range(3)))
    is_numpy(merged_all(parts), ROWS)


def test_merging_is_symmetric():
    a, b = of_batch(ROWS, np.arange(24) < 7), of_batch(ROWS, np.arange(24) >= 7)
    for one, other in zip(merged(a, b), merged(b, a), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_empty_is_neutral():
    a = of_batch(ROWS, np.ones(24, bool))
    equal(merged(a, EMPTY), a)
    equal(merged(EMPTY, a), a)


def test_merging_nothing_with_nothing_is_nothing():
    equal(merged(EMPTY, EMPTY), EMPTY)
    equal(merged_all(jax.tree.map(lambda x: jnp.stack([x, x]), EMPTY)), EMPTY)


def test_adding_one_by_one_is_numpy():
    moments, _ = jax.lax.scan(lambda m, row: (m.add(row), None), EMPTY, ROWS)
    is_numpy(moments, ROWS)


def test_the_first_observation_is_the_mean_exactly():
    first = EMPTY.add(jnp.asarray(ROWS[0]))
    equal(first, Moments(np.float32(1), ROWS[0], np.zeros(3)))


@pytest.mark.parametrize("uncounted", [0.0, np.nan, np.inf])
@pytest.mark.parametrize(
    "counted",
    [np.arange(24) % 3 == 0, np.arange(24) == 5, np.zeros(24, bool)],
    ids=["some", "one", "none"],
)
def test_rows_that_are_not_counted_may_hold_anything(counted, uncounted):
    rows = np.where(counted[:, None], ROWS, np.float32(uncounted))
    is_numpy(of_batch(rows, counted), ROWS[counted])


def test_many_observations_of_a_constant_have_no_deviation():
    moments = Moments(jnp.float32(1e7), jnp.array([0.1]), jnp.zeros(1))
    assert float(moments.add(jnp.array([0.1])).deviation[0]) == 0


# ----------------------------------------------------------------------------- tasks and layers


def test_a_task_counts_what_its_policy_sees():
    task = Task(
        name="suite/pixels",
        options={},
        observation_size=24,
        action_low=np.full(3, -np.inf),
        action_high=np.full(3, np.inf),
        discrete=True,
        horizon=None,
        distractors=2,
        image_shape=(1, 4, 6),
    )
    assert (task.num_features, task.num_actions) == (72, 3)
    assert task.seen_image_shape == (3, 4, 6)


@pytest.mark.parametrize(
    "kind, shape, fans", [("dense", (17, 6), (17, 6)), ("convolution", (4, 8, 8, 16), (256, 16))]
)
def test_a_layer_knows_its_fans(kind, shape, fans):
    layer = Layer("layer0", kind, "layer0/kernel", shape, "observation")
    assert (layer.fan_in, layer.fan_out) == fans


# --------------------------------------------------------------------------------------- masks

PARAMS = {"a": jnp.array([1.0, -2.0, 3.0]), "b": {"kernel": jnp.array([[4.0, 0.5]])}}


def cutting(*dead):
    """A transformation that zeroes the entries at these flat indices, however large they are."""

    def kept(group):
        ends = np.cumsum([leaf.size for leaf in group.after])
        alive = ~np.isin(np.arange(ends[-1]), dead)
        parts = np.split(alive, ends[:-1])
        return [jnp.asarray(p.reshape(x.shape)) for p, x in zip(parts, group.after, strict=True)]

    return sparsify(Projection(Units(lambda path: "all"), kept))


def state_of(optimizer):
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    return optimizer.update(still, optimizer.init(PARAMS), PARAMS)[1]


def mask(a, kernel):
    return {"a": np.array(a, bool), "b": {"kernel": np.array([kernel], bool)}}


def test_a_chain_without_sparsity_has_no_mask():
    state = state_of(optax.chain(optax.adam(0.1), optax.sgd(0.1)))
    assert mask_of(state, PARAMS) is None
    assert sparsity_of(None) == 0


def test_before_the_first_update_all_weights_live():
    optimizer = optax.chain(optax.adam(0.1), hard_thresholding(keep=2))
    found = mask_of(optimizer.init(PARAMS), PARAMS)
    equal(found, mask([1, 1, 1], [1, 1]))
    assert sparsity_of(found) == 0


def test_the_mask_of_a_chain_is_that_of_its_sparsity():
    state = state_of(optax.chain(optax.adam(0.1), hard_thresholding(keep=2)))
    found = mask_of(state, PARAMS)
    equal(found, mask([0, 0, 1], [1, 0]))
    assert sparsity_of(found) == np.float32(0.6)


def test_a_weight_lives_if_every_transformation_lets_it():
    state = state_of(optax.chain(cutting(0), optax.sgd(0.1), cutting(1, 4)))
    equal(mask_of(state, PARAMS), mask([0, 0, 1], [1, 0]))


def test_masks_of_partitions_are_joined():
    labels = {"a": "one", "b": "two"}
    sparse = optax.chain(optax.adam(0.1), cutting(1))
    state = state_of(optax.multi_transform({"one": sparse, "two": cutting(0)}, labels))
    equal(mask_of(state, PARAMS), mask([1, 0, 1], [0, 1]))


def test_weights_that_no_sparsity_has_charge_of_live():
    labels = {"a": "dense", "b": "sparse"}
    state = state_of(optax.multi_transform({"dense": optax.sgd(0.1), "sparse": cutting(1)}, labels))
    found = mask_of(state, PARAMS)
    equal(found, mask([1, 1, 1], [1, 0]))
    assert sparsity_of(found) == np.float32(0.2)


def test_the_mask_of_one_array_is_an_array():
    params = jnp.array([0.0, 5.0])
    state = (SparseState(jnp.int32(3), jnp.array([True, False])),)
    assert mask_of(state, params).tolist() == [True, False]


def test_a_weight_of_value_zero_may_live_and_counts_as_living():
    state = SparseState(jnp.int32(1), mask([1, 1, 0], [1, 0]))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    assert sparsity_of(mask_of(state, zeros)) == np.float32(0.4)


@pytest.mark.parametrize("x64", [False, True])
def test_masks_are_read_under_jit(x64):
    with jax.enable_x64(x64):
        state = SparseState(jnp.int32(1), jax.tree.map(jnp.asarray, mask([1, 1, 0], [1, 0])))
        sparsity = jax.jit(lambda state: sparsity_of(mask_of(state, PARAMS)))(state)
    assert sparsity == np.float32(0.4)


def test_phantoms_are_no_weights_and_do_not_count():
    params = {"w": jnp.zeros(4), "deep": {"phantom": jnp.zeros(8)}, "phantoms": jnp.zeros(2)}
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    assert [is_phantom(path) for path in paths] == [True, False, False]
    alive = {"w": np.arange(4) < 1, "deep": {"phantom": np.zeros(8, bool)}, "phantoms": np.ones(2)}
    assert sparsity_of(jax.tree.map(lambda leaf: leaf.astype(bool), alive)) == np.float32(0.5)


def test_one_array_is_no_phantom():
    assert not is_phantom(())
    assert sparsity_of(np.array([True, False])) == 0.5


# ------------------------------------------------------------------------------------- support


def test_a_chain_that_lets_all_move_has_no_support():
    assert support_of(state_of(optax.sgd(0.1)), PARAMS) is None
    assert support_of(state_of(optax.chain(optax.sgd(0.1), cutting(1))), PARAMS) is None


def supporting(mask, support):
    return SparseState(jnp.int32(1), mask, support)


def test_weights_in_every_support_may_move():
    dense = mask([1, 1, 1], [1, 1])
    one, other = mask([1, 0, 1], [1, 0]), mask([1, 1, 0], [1, 1])
    state = (supporting(dense, one), supporting(dense, None), {"inner": supporting(dense, other)})
    equal(support_of(state, PARAMS), mask([1, 0, 0], [1, 0]))
    equal(mask_of(state, PARAMS), dense)


def test_weights_that_no_support_has_charge_of_may_move():
    state = supporting({"a": np.ones(3, bool)}, {"a": np.array([False, True, False])})
    equal(support_of(state, PARAMS), mask([0, 1, 0], [1, 1]))
