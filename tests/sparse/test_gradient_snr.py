"""Signal to noise of gradients: against a loop over samples, and against chance."""

import jax
import jax.numpy as jnp
import numpy as np

from nesht_jax.es import gradient
from nesht_jax.es.noise import perturbation
from nesht_jax.sparse.gradient_snr import gradient_snr


def loss(params, sample):
    x, y = sample
    return (jnp.tanh(x @ params["w"]) - y) ** 2


def test_it_is_what_a_loop_over_samples_finds():
    x, y = jax.random.normal(jax.random.key(0), (20, 3)), jnp.arange(20.0)
    params = {"w": jnp.asarray([0.1, -0.2, 0.3])}
    each = np.stack([jax.grad(loss)(params, (x[i], y[i]))["w"] for i in range(20)])
    expected = abs(each.mean(0)) / (each.std(0) + 1e-10)
    np.testing.assert_allclose(gradient_snr(loss, params, (x, y))["w"], expected, rtol=1e-5)


def test_gradients_that_agree_are_divided_by_the_guard_alone():
    params = {"w": jnp.asarray([2.0])}
    found = gradient_snr(lambda p, x: 3 * p["w"][0] + 0 * x, params, jnp.arange(5.0))
    np.testing.assert_allclose(found["w"], 3e10, rtol=1e-6)


def test_of_an_evolution_strategy_chance_makes_it_known_and_a_signal_more():
    n, d, sigma = 64, 2000, 0.1
    key = jax.random.key(3)
    zero = {"w": jnp.zeros(d)}
    noise = jax.tree_util.Partial(lambda i: perturbation(key, i, zero))
    chance = jax.random.normal(jax.random.key(4), (n,)) / n
    g = gradient.nes_gradient(noise, chance, sigma)
    found = gradient.signal_to_noise(g, chance, sigma)
    np.testing.assert_allclose(found, np.sqrt(2 / np.pi / n), rtol=0.05)

    drawn = np.asarray(jax.vmap(lambda i: noise(i)["w"])(jnp.arange(n, dtype=jnp.int32)))
    samples = np.asarray(chance)[:, None] * drawn
    exact = abs(samples.mean(0)) / samples.std(0)
    np.testing.assert_allclose(found, exact.mean(), rtol=0.06)
    assert gradient.signal_to_noise(g, jnp.zeros(n), sigma) == 0

    told = jnp.asarray(drawn[:, :5].sum(1) / n)
    g = gradient.nes_gradient(noise, told, sigma)
    few = jax.tree.map(lambda leaf: leaf[:5], g)
    assert gradient.signal_to_noise(few, told, sigma) > 2.5 * found
