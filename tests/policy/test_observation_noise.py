"""Noise on observations: its law, its dependence on what is seen, and what it costs a policy."""

import jax
import jax.numpy as jnp
import numpy as np

from nesht_jax.policy.observation_noise import with_observation_noise
from nesht_jax.types import Policy

SEES = Policy(init=lambda key: (), apply=lambda params, moments, x: x)
UNIT = jnp.asarray([1.0, 2.0, 0.0])


def noisy(deviation, seed=0):
    return with_observation_noise(SEES, deviation, UNIT, jax.random.key(seed))


def test_it_is_normal_in_units_of_each_feature_and_independent_between_them():
    shown = jax.random.normal(jax.random.key(1), (20_000, 3))
    seen = jax.vmap(lambda x: noisy(0.5).apply((), None, x))(shown)
    noise = np.asarray(seen - shown)
    np.testing.assert_allclose(noise.std(0), [0.5, 1.0, 0.0], rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.03)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[:, 0], np.asarray(shown)[:, 0])[0, 1]) < 0.03
    fourth = (noise[:, 0] / 0.5) ** 4
    np.testing.assert_allclose(fourth.mean(), 3, rtol=0.06)


def test_it_changes_with_the_last_bit_with_places_and_with_the_key():
    x = jnp.asarray([0.3, -0.2, 0.0])
    shown = [
        x,
        x.at[0].set(np.nextafter(np.float32(0.3), np.float32(1))),
        x[jnp.asarray([1, 0, 2])],
    ]
    noise = [np.asarray(noisy(1.0).apply((), None, s) - s) for s in shown]
    noise.append(np.asarray(noisy(1.0, seed=1).apply((), None, x) - x))
    assert all(abs(a - b)[:2].min() > 1e-3 for i, a in enumerate(noise) for b in noise[:i])
    again = np.asarray(noisy(1.0).apply((), None, x) - x)
    np.testing.assert_array_equal(noise[0], again)


def test_signs_do_not_cancel():
    x = jnp.asarray([0.3, -0.2, 5.0])
    mirrored = x * jnp.asarray([-1.0, -1.0, 1.0])
    noise = [np.asarray(noisy(1.0).apply((), None, s) - s) for s in (x, mirrored)]
    assert abs(noise[0] - noise[1])[:2].min() > 1e-3


def test_without_deviation_nothing_changes():
    x = jnp.asarray([0.3, -0.2, 5.0])
    np.testing.assert_array_equal(noisy(0.0).apply((), None, x), x)
