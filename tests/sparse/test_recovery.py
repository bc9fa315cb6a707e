"""Searches where the truth is known: what phantoms are the law of, and how much is found."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nesht_jax.es.nes import nesht
from nesht_jax.sparse.selection import selection
from nesht_jax.types import sparse_states

pytestmark = pytest.mark.slow

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

MEMBERS, EVERY, PHANTOMS = 64, 10, 128


class Path(NamedTuple):
    """What a search leaves after each update."""

    kernel: np.ndarray
    walk: np.ndarray
    lives: np.ndarray


def searched(key, kernel, fitness_of, *, generations, unit="weight", **when):
    """A search from zero, by members that stand on what lives."""
    optimizer = optax.chain(optax.sgd(0.05), selection(level=0.1, every=EVERY, unit=unit, **when))
    algorithm = nesht(num_members=MEMBERS, sigma=0.1, optimizer=optimizer)

    def generation(state, _):
        noise = jax.random.fold_in(key, state.generation)
        fitness = fitness_of(noise, algorithm.ask(state)["kernel"])
        state, _ = algorithm.tell(state, fitness)
        (sparse,) = sparse_states(state.optimizer)
        return state, Path(state.params["kernel"], sparse.walk["kernel"], sparse.mask["kernel"])

    start = algorithm.init(key, {"kernel": kernel, "phantom": jnp.zeros(PHANTOMS)})
    return jax.lax.scan(generation, start, length=generations)[1]


def drawn_kernel(key, shape, lives):
    """Entries of either sign, of magnitude 0.5 … 1.5, where they live."""
    magnitude, sign = jax.random.split(jax.random.fold_in(key, 1))
    entries = jax.random.uniform(magnitude, shape, minval=0.5, maxval=1.5)
    entries = entries * jnp.where(jax.random.bernoulli(sign, 0.5, shape), 1, -1)
    return jnp.where(lives, entries, 0)


# ------------------------------------------------------------------------------- nothing matters


@pytest.mark.parametrize("explore", [1.0, 0.25])
def test_phantoms_have_the_law_of_weights_that_do_not_matter(explore):
    """Of what is tried now and then s² tells when, so that all are judged alike."""

    def noise(key, kernels):
        return jax.random.normal(key, (MEMBERS,))

    run = partial(searched, generations=101, explore=explore)
    key, kernel = jax.random.key(0), jnp.zeros(400)
    path = jax.jit(lambda key: run(key, kernel, noise))(key)
    weights, walk = np.asarray(path.kernel[-1]), np.asarray(path.walk[-1])
    assert (walk > 0).all() and (len(np.unique(walk)) == 1) == (explore == 1)
    standard_error = np.sqrt(2 / 400 + 2 / (11 * PHANTOMS))
    assert abs(np.mean(weights**2 / walk) - 1) < STANDARD_ERRORS * standard_error


# -------------------------------------------------------------------------------- something does

SEEDS = 3


@pytest.mark.parametrize("explore", [1.0, 0.25])
def test_the_rows_that_matter_are_found(explore):
    """5 of 60 inputs of 4 outputs, ten steps of Gaussian inputs an episode, common to members."""
    lives = np.arange(60) < 5

    def run(key):
        truth = drawn_kernel(key, (60, 4), jnp.asarray(lives)[:, None])

        def fitness_of(noise, kernels):
            inputs, returns = jax.random.split(noise)
            x = jax.random.normal(inputs, (10, 60))
            error = jnp.einsum("ti,mio->mto", x, kernels - truth[None])
            return -jnp.sum(error**2, axis=(1, 2)) + jax.random.normal(returns, (MEMBERS,))

        how = {"unit": "row", "explore": explore, "end": 200}
        return searched(key, jnp.zeros((60, 4)), fitness_of, generations=300, **how).lives

    lived = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    found = np.asarray(lived)[:, EVERY - 1 :: EVERY].any(-1)[:, -8:]
    recall = found[..., lives].mean()
    precision = found[..., lives].sum() / found.sum()
    assert recall >= 0.95 and precision >= 0.8, (recall, precision)


def test_about_as_many_weights_are_kept_as_matter():
    """3, 10 or 40 of 200; the others are harmful, and nearly all variance of returns is noise."""
    numbers = np.array([3, 10, 40])

    def run(number, key):
        lives = jnp.arange(200) < number
        truth = drawn_kernel(key, (200,), lives)

        def fitness_of(noise, weights):
            error = jnp.sum((weights - truth[None]) ** 2, axis=1)
            return -error + 2 * jax.random.normal(noise, (MEMBERS,))

        return searched(key, jnp.zeros(200), fitness_of, generations=400).lives

    keys = jax.random.split(jax.random.key(0), SEEDS)
    runs = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    found = np.asarray(runs(numbers, keys))[:, :, EVERY - 1 :: EVERY][:, :, -10:]
    kept = found.sum(-1).mean((1, 2))
    right = [found[i, ..., :number].mean() for i, number in enumerate(numbers)]
    assert (abs(np.log(kept / numbers)) < np.log(1.4)).all(), kept
    assert min(right) >= 0.7, right
