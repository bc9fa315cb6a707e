"""A pointer network: exact log-probabilities, uniform at first, and choices that depend."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.search.pointer_network import pointer_network
from nesht_jax.search.policy_gradient import policy_gradient

KEY = jax.random.key(4)
SPACE = pointer_network(5, 3, width=8)


def moved(scale=2.0):
    keys = jax.random.split(KEY, 4)
    names = sorted(SPACE.logits)
    return {
        name: SPACE.logits[name]
        + scale * 8**-0.5 * jax.random.normal(key, SPACE.logits[name].shape)
        for name, key in zip(names, keys, strict=True)
    }


def probabilities(weights):
    orders = list(itertools.permutations(range(5), 3))
    log_p = jax.vmap(SPACE.log_prob, (None, 0))(weights, jnp.array(orders))
    return dict(zip(orders, np.exp(np.asarray(log_p, np.float64)).tolist(), strict=True))


def test_the_first_draws_are_uniform():
    assert max(abs(p - 1 / 60) for p in probabilities(SPACE.logits).values()) < 1e-6


def test_probabilities_add_up_to_one_and_draws_follow_them():
    table, number = probabilities(moved()), 20_000
    assert sum(table.values()) == pytest.approx(1, rel=1e-4)
    assert max(table.values()) > 3 / 60
    drawn = jax.vmap(SPACE.draw, (0, None))(jax.random.split(KEY, number), moved())
    counts = Counter(map(tuple, drawn.tolist()))
    for order, p in table.items():
        assert abs(counts[order] / number - p) < 4.5 * (p * (1 - p) / number) ** 0.5 + 1e-4


def test_the_mode_takes_the_most_probable_each_time():
    table, taken = probabilities(moved()), ()
    for _ in range(3):
        following = Counter()
        for order, p in table.items():
            if order[: len(taken)] == taken:
                following[order[len(taken)]] += p
        taken += (following.most_common(1)[0][0],)
    assert tuple(SPACE.mode(moved()).tolist()) == taken


@pytest.mark.slow
def test_gradients_are_finite():
    for k in (2, 5):
        space = pointer_network(5, k, width=4)
        g = jax.grad(lambda w, s=space: s.log_prob(w, s.mode(w)) + s.entropy(w))(space.logits)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(g))


@pytest.mark.slow
def test_it_learns_that_two_belong_together():
    """Pairs {0, 1} and {2, 3} earn, mixed ones do not: no plain logits can say so."""
    controller = policy_gradient(pointer_network(4, 2, width=16), entropy=0.05)

    def fitness(pairs):
        low, high = pairs.min(1), pairs.max(1)
        return ((low == 0) & (high == 1) | (low == 2) & (high == 3)).astype(jnp.float32)

    def generation(state, key):
        told = jax.vmap(controller.propose, (None, None, 0))(state, key, jnp.arange(64))
        return controller.update(state, key, told, fitness(told)), fitness(told).mean()

    run = jax.jit(lambda s: jax.lax.scan(generation, s, jax.random.split(KEY, 60)))
    _, means = run(controller.init(KEY))
    assert means[0] < 0.5 and means[-1] > 0.9
