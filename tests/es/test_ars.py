"""Augmented random search, by its paper in NumPy, is ``nesht`` with four settings.

Mania et al. 2018 (arXiv 1803.07055), algorithm 2: V1 and V2 with all directions, V1-t and V2-t with
the best.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from nesht_jax.envs.rollout import episode_keys
from nesht_jax.envs.tasks import make_evaluate, make_task
from nesht_jax.es.nes import generation_keys, make_generation, nesht
from nesht_jax.es.shaping import best_directions, standardize
from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Moments

KEY = jax.random.key(2)
DIRECTIONS = 6
SIGMA, ALPHA = 0.3, 0.05
VERSIONS = [(DIRECTIONS, False), (DIRECTIONS, True), (2, False), (2, True)]
NAMES = ["V1", "V2", "V1-t", "V2-t"]


class Search:
    """The published algorithm, in double precision."""

    def __init__(self, theta, *, best, whitens):
        self.theta, self.best, self.whitens = np.array(theta, float), best, whitens
        self.seen = []

    def look(self, x):
        """x as a policy sees it: whitened by what was seen before, and bounded as ours is."""
        if not self.whitens:
            return x
        if self.seen:
            rows = np.concatenate(self.seen)
            x = (x - rows.mean(0)) / (rows.std(0) + 1e-2)
        return np.clip(x, -5, 5)

    def step(self, deltas, plus, minus, observations):
        order = np.argsort(-np.maximum(plus, minus), kind="stable")[: self.best]
        spread = np.std([*plus[order], *minus[order]])
        step = sum((plus[k] - minus[k]) * deltas[k] for k in order)
        self.theta = self.theta + ALPHA / (self.best * spread) * step
        self.seen.append(observations)


def algorithm_of(best):
    return nesht(
        num_members=2 * DIRECTIONS,
        sigma=SIGMA,
        optimizer=optax.sgd(2 * SIGMA * ALPHA),
        shaping=best_directions(standardize, best),
    )


def flat(params):
    return np.asarray(ravel_pytree(params)[0], float)


def asking(algorithm):
    """Makes ``state -> directions``: every second member, less the center."""
    ask = jax.jit(lambda state: jax.vmap(lambda p: ravel_pytree(p)[0])(algorithm.ask(state)))
    return lambda state: (np.asarray(ask(state)[::2], float) - flat(state.params)) / SIGMA


TRUE = np.array([1.0, -0.5, 2.0])


def analytic_fitness(theta, inputs, x):
    """How well θ·inputs tells TRUE·x, over the observations of one member."""
    return -((inputs @ theta - x @ TRUE) ** 2).mean(-1)


@pytest.mark.parametrize(("best", "whitens"), VERSIONS, ids=NAMES)
def test_it_is_augmented_random_search_on_a_regression(best, whitens):
    algorithm, normalize = algorithm_of(best), by_running_moments()
    deltas_of, tell = asking(algorithm), jax.jit(algorithm.tell)

    @jax.jit
    def fitness_of(state, x):
        look = jax.vmap(jax.vmap(normalize.apply, (None, 0)), (None, 0))
        inputs = look(state.moments, x) if whitens else x
        predicted = jnp.einsum("mto,mo->mt", inputs, algorithm.ask(state))
        return -((predicted - x @ TRUE.astype(np.float32)) ** 2).mean(1)

    start = np.array([0.2, 0.1, -0.3], np.float32)
    search = Search(start, best=best, whitens=whitens)
    state = algorithm.init(KEY, jnp.array(start), moments=Moments.empty(3) if whitens else None)
    rng = np.random.default_rng(0)
    for _ in range(5):
        shape = (2 * DIRECTIONS, 7, 3)
        x = rng.normal([1.0, -4.0, 0.0], [0.5, 3.0, 1.0], shape).astype(np.float32)
        deltas, rows = deltas_of(state), x.reshape(-1, 3)
        returns = [
            analytic_fitness(search.theta + sign * SIGMA * d, search.look(seen), seen)
            for d, pair in zip(deltas, x.reshape(DIRECTIONS, 2, 7, 3), strict=True)
            for sign, seen in zip((1, -1), pair, strict=True)
        ]
        plus, minus = np.reshape(returns, (DIRECTIONS, 2)).T
        search.step(deltas, plus, minus, rows)
        observed = Moments.of_batch(jnp.array(rows), jnp.full(len(rows), True))
        told = {"observed": observed} if whitens else {}
        state, _ = tell(state, fitness_of(state, x), **told)
        np.testing.assert_allclose(state.params, search.theta, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(search.theta - start) > ALPHA


@pytest.mark.slow
def test_it_is_augmented_random_search_on_a_task():
    """V2-t from the policy of zeros, with the rollouts, observations and moments of a suite."""
    task = make_task("probe/linear")
    policy = make_policy(task, output="clip", start="zero", normalize=by_running_moments())
    algorithm = algorithm_of(best=2)
    deltas_of = asking(algorithm)
    evaluate = make_evaluate(task, policy, num_members=2 * DIRECTIONS)
    generation = jax.jit(make_generation(algorithm, evaluate))
    step = jax.jit(jax.vmap(task.simulator.step))
    members = jnp.arange(2 * DIRECTIONS)

    @jax.jit
    def reset(key):
        def one(i):
            return task.simulator.reset(
                episode_keys(key, i, jnp.int32(0), common_random_numbers=False)[0]
            )

        return jax.vmap(one)(members)

    def play(key, thetas, look):
        """Returns of linear policies, bias first as in the flat params, and what they saw."""
        state, x = reset(key)
        total, seen = 0.0, []
        for _ in range(task.horizon):
            seen.append(np.asarray(x, float))
            actions = (look(seen[-1]) * thetas[:, 1:]).sum(1) + thetas[:, 0]
            state, x, reward, _ = step(state, jnp.asarray(actions[:, None], jnp.float32))
            total = total + np.asarray(reward, float)
        return total, np.concatenate(seen)

    state = algorithm.init(KEY, policy.init(KEY), moments=Moments.empty(task.num_features))
    search = Search(np.zeros(6), best=2, whitens=True)
    for _ in range(3):
        deltas = deltas_of(state)
        signed = np.stack([deltas, -deltas], 1).reshape(2 * DIRECTIONS, -1)
        key = generation_keys(state)[1]
        returns, rows = play(key, search.theta + SIGMA * signed, search.look)
        search.step(deltas, returns[::2], returns[1::2], rows)
        state, info = generation(state)
        np.testing.assert_allclose(info.fitness_mean, returns.mean(), rtol=1e-4)
        np.testing.assert_allclose(flat(state.params), search.theta, rtol=1e-3, atol=1e-5)
    assert np.linalg.norm(search.theta) > ALPHA
