"""Spaces: exact probabilities, draws that follow them, mutations as PyGlove makes them."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.search.space import choices, product, subset

KEY = jax.random.key(11)
LOGITS = jnp.array([0.3, -1.0, 0.8, 0.0, 1.5])


def plackett_luce(logits, order):
    weights, p = np.exp(np.asarray(logits, np.float64)), 1.0
    for i in order:
        p *= weights[i] / weights.sum()
        weights[i] = 0
    return p


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_log_probabilities_of_subsets_are_those_of_draws_without_replacement(k):
    space, total = subset(5, k), 0.0
    log_prob = jax.jit(space.log_prob)
    for order in itertools.permutations(range(5), k):
        found = float(jnp.exp(log_prob(LOGITS, jnp.array(order))))
        assert found == pytest.approx(plackett_luce(LOGITS, order), rel=1e-5)
        total += found
    assert total == pytest.approx(1, rel=1e-4)


def test_subsets_are_drawn_as_their_log_probabilities_say():
    space, number = subset(5, 2), 20_000
    drawn = jax.vmap(space.draw, (0, None))(jax.random.split(KEY, number), LOGITS)
    counts = Counter(map(tuple, drawn.tolist()))
    for order in itertools.permutations(range(5), 2):
        p = plackett_luce(LOGITS, order)
        assert abs(counts[order] / number - p) < 4.5 * (p * (1 - p) / number) ** 0.5


@pytest.mark.slow
def test_gradients_of_log_probabilities_are_finite_even_where_all_are_taken():
    for k in (2, 5):
        g = jax.grad(subset(5, k).log_prob)(LOGITS, jnp.arange(k))
        assert bool(jnp.isfinite(g).all())


def test_choices_are_drawn_as_their_log_probabilities_say():
    logits = jnp.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
    space, number = choices(2, 3), 20_000
    drawn = jax.vmap(space.draw, (0, None))(jax.random.split(KEY, number), logits)
    counts = Counter(map(tuple, drawn.tolist()))
    table = np.exp(np.asarray(logits, np.float64))
    table /= table.sum(1, keepdims=True)
    for pair in itertools.product(range(3), repeat=2):
        p = table[0, pair[0]] * table[1, pair[1]]
        found = float(jnp.exp(space.log_prob(logits, jnp.array(pair))))
        assert found == pytest.approx(p, rel=1e-5)
        assert abs(counts[pair] / number - p) < 4.5 * (p * (1 - p) / number) ** 0.5


def mutants(space, architecture, number=3000):
    return jax.vmap(space.mutate, (0, None))(jax.random.split(KEY, number), architecture)


def test_a_mutated_choice_is_drawn_anew_among_all():
    before = jnp.array([0, 1, 1, 0])
    after = np.asarray(mutants(choices(4, 2), before))
    changed = (after != np.asarray(before)).sum(1)
    assert set(changed) == {0, 1}
    assert abs((changed == 0).mean() - 0.5) < 0.04  # one of two values is the present one
    where = np.argmax(after != np.asarray(before), 1)[changed == 1]
    assert np.abs(np.bincount(where) / len(where) - 0.25).max() < 0.05


def test_a_mutated_subset_has_one_other_or_all_new():
    n, k = 30, 4
    before = jnp.array([3, 29, 0, 17])
    after = np.asarray(mutants(subset(n, k), before))
    assert all(len(set(row)) == k for row in after.tolist())
    in_place = (after == np.asarray(before)).sum(1)
    # of k + 1 cases one draws all anew, which seldom keeps k - 1 in their places
    assert abs((in_place == k - 1).mean() - k / (k + 1)) < 0.03
    assert not (in_place == k).any()
    others = after[in_place == k - 1][:, 0]
    others = others[others != 3]
    assert set(others) == set(range(n)) - {3, 29, 0, 17}


def test_a_whole_set_has_no_mutants():
    before = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(subset(3, 3).mutate(KEY, before), before)


def test_a_product_mutates_one_decision_of_all():
    space = product({"edges": subset(40, 3), "masks": choices(12, 2)})
    before = space.draw(KEY, space.logits)
    after = mutants(space, before)
    edges, masks = (
        (np.asarray(after[name]) != np.asarray(before[name])).any(1) for name in ("edges", "masks")
    )
    assert not (edges & masks).any()
    # 4 decisions of 16 are about edges, each a change; 12 about masks, half of them none
    assert abs(edges.mean() - 4 / 16) < 0.03
    assert abs(masks.mean() - 12 / 16 / 2) < 0.03
    assert space.decisions == 16


def test_a_product_adds_up_log_probabilities_and_entropies():
    parts = {"edges": subset(5, 2), "masks": choices(3, 2)}
    space = product(parts)
    logits = {"edges": LOGITS, "masks": jnp.arange(6.0).reshape(3, 2)}
    drawn = space.draw(KEY, logits)
    for name in ("log_prob", "entropy"):
        given = (lambda n: (logits[n], drawn[n])) if name == "log_prob" else lambda n: (logits[n],)
        whole = (logits, drawn) if name == "log_prob" else (logits,)
        each = sum(getattr(part, name)(*given(n)) for n, part in parts.items())
        assert getattr(space, name)(*whole) == pytest.approx(float(each), rel=1e-5)


def test_the_mode_is_the_most_probable():
    space = product({"edges": subset(5, 2), "masks": choices(2, 3)})
    mode = space.mode({"edges": LOGITS, "masks": jnp.array([[0.0, 2, 1], [3, 0, 0]])})
    assert mode["edges"].tolist() == [4, 2]
    assert mode["masks"].tolist() == [1, 0]


def test_entropy_is_largest_where_the_draw_is_uniform():
    space = choices(3, 4)
    assert float(space.entropy(space.logits)) == pytest.approx(3 * np.log(4), rel=1e-6)
    assert space.entropy(space.logits.at[0, 0].set(1.0)) < space.entropy(space.logits)


def test_orders_of_a_subset_are_one_architecture():
    space = product({"edges": subset(9, 3), "masks": choices(2, 2)})
    masks = jnp.array([1, 0])
    one, other = (
        space.canonical({"edges": jnp.array(order), "masks": masks}).tolist()
        for order in ([7, 2, 5], [5, 7, 2])
    )
    assert one == other
    assert one != space.canonical({"edges": jnp.array([7, 2, 4]), "masks": masks}).tolist()


@pytest.mark.slow
def test_draws_do_not_depend_on_x64():
    space = product({"edges": subset(9, 3), "masks": choices(4, 3)})
    before = space.mutate(KEY, space.draw(KEY, space.logits))
    with jax.enable_x64(True):
        after = space.mutate(KEY, space.draw(KEY, space.logits))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("make", [lambda: choices(0, 2), lambda: subset(3, 4), lambda: product({})])
def test_an_empty_space_is_refused(make):
    with pytest.raises(ValueError, match="must have 1 to 3, got 4|at least one"):
        make()
