"""Mutations against PyGlove's, whose evolution the paper used: the same frequencies of change."""

import jax
import jax.numpy as jnp
import numpy as np
import pyglove as pg
import pytest

from nesht_jax.search.space import choices, subset

NUMBER = 1500


def changes_of_pyglove(spec, number=NUMBER):
    """Values before, and after each mutation, as PyGlove makes it."""
    mutator, parent = pg.evolution.mutators.Uniform(seed=1), pg.random_dna(spec)
    return np.array(parent.to_numbers()), np.array(
        [mutator.mutate(parent).to_numbers() for _ in range(number)]
    )


def ours(space, before):
    keys = jax.random.split(jax.random.key(0), NUMBER)
    return np.asarray(jax.vmap(space.mutate, (0, None))(keys, jnp.asarray(before, jnp.int32)))


def assert_close(a, b):
    """Two frequencies of ``NUMBER`` draws each."""
    assert abs(a - b) < 4.5 * (2 * 0.25 / NUMBER) ** 0.5


@pytest.mark.slow
def test_choices_mutate_as_oneof_does():
    n, c = 8, 3
    spec = pg.dna_spec(pg.List([pg.oneof(list(range(c))) for _ in range(n)]))
    before, theirs = changes_of_pyglove(spec)
    mine = ours(choices(n, c), before)
    for changed in (0, 1):
        theirs_share = ((theirs != before).sum(1) == changed).mean()
        assert_close(((mine != before).sum(1) == changed).mean(), theirs_share)
    assert ((theirs != before).sum(1) <= 1).all() and ((mine != before).sum(1) <= 1).all()


@pytest.mark.slow
def test_subsets_mutate_as_manyof_does():
    n, k = 40, 6
    spec = pg.dna_spec(pg.manyof(k, list(range(n)), distinct=True, sorted=False))
    before, theirs = changes_of_pyglove(spec)
    mine = ours(subset(n, k), before)
    for some in (theirs, mine):
        assert all(len(set(row)) == k for row in some.tolist())
    kept = [np.isin(some, before).sum(1) for some in (theirs, mine)]
    for number in (k - 1, k):
        assert_close((kept[1] == number).mean(), (kept[0] == number).mean())
