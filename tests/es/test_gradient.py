"""The NES gradient against dense sums, closed forms, and the theory's variance bound."""

import functools
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from nesht_jax.es import gradient
from nesht_jax.es.gradient import mirrored, nes_gradient, one_sided
from nesht_jax.es.noise import perturbation

STANDARD_ERRORS = 4
"""Statistical tests allow this many; seeds are fixed, so they pass always or never."""

KEY = jax.random.key(3)
SIGMA = 0.3
CENTER = jnp.array([0.5, -1.0, 0.2])
SLOPE = jnp.array([2.0, -0.5, 1.0])


def members(key, params, *, num_members, mirrored):
    def member(i):
        j, sign = (i // 2, 1 - 2 * (i % 2)) if mirrored else (i, 1)
        return params + SIGMA * sign * perturbation(key, j, params)

    return jax.vmap(member)(jnp.arange(num_members))


@partial(jax.jit, static_argnames=("fitness_of", "num_members", "mirrored"))
def estimate(key, fitness_of, *, num_members, mirrored, params=CENTER):
    """g of one generation, with raw returns."""
    fitness = jax.vmap(fitness_of)(members(key, params, num_members=num_members, mirrored=mirrored))
    weights = (gradient.mirrored if mirrored else one_sided)(fitness)
    return nes_gradient(lambda j: perturbation(key, j, params), weights, SIGMA)


@pytest.mark.parametrize("chunk_entries", [1, 60, 2**22])
def test_any_chunk_size_gives_the_dense_sum(monkeypatch, chunk_entries):
    monkeypatch.setattr(gradient, "CHUNK_ENTRIES", chunk_entries)
    params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
    weights = np.random.default_rng(0).normal(size=13).astype(np.float32)
    draw = partial(perturbation, KEY, params=params)
    noise = jax.jit(jax.vmap(draw))(jnp.arange(13))

    g = jax.jit(lambda w: nes_gradient(draw, w, SIGMA))(weights)

    for name, leaf in g.items():
        dense = np.einsum("n,n...->...", weights, np.float64(noise[name])) / SIGMA
        np.testing.assert_allclose(leaf, dense, rtol=1e-5, atol=1e-5)


def test_the_chunk_bounds_the_noise_held_at_once(monkeypatch):
    monkeypatch.setattr(gradient, "CHUNK_ENTRIES", 350)
    draw = partial(perturbation, KEY, params=jnp.zeros(100))
    jaxpr = jax.make_jaxpr(lambda w: nes_gradient(draw, w, SIGMA))(jnp.ones(50))
    largest = max(v.aval.size for v in _variables(jaxpr.jaxpr) if v.aval.dtype == jnp.float32)
    assert largest <= 350


def _variables(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _variables(inner)


def test_weights_of_the_directions():
    utility = jnp.array([1.0, 4.0, -2.0, 3.0])
    np.testing.assert_allclose(one_sided(utility), [0.25, 1.0, -0.5, 0.75])
    np.testing.assert_allclose(mirrored(utility), [-0.75, -1.25])


def test_mirrored_is_exact_on_a_linear_fitness_given_the_noise():
    g = estimate(KEY, lambda x: SLOPE @ x + 100.0, num_members=8, mirrored=True)
    draw = jax.jit(jax.vmap(partial(perturbation, KEY, params=CENTER)))
    noise = np.float64(draw(jnp.arange(4)))
    np.testing.assert_allclose(g, noise.T @ (noise @ np.float64(SLOPE)) / 4, rtol=1e-3)


def test_mirrored_is_zero_on_an_even_fitness():
    g = estimate(
        KEY, lambda x: x @ x + jnp.cos(x[0]), num_members=8, mirrored=True, params=0 * SLOPE
    )
    assert (np.asarray(g) == 0).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_unbiased_on_an_asymmetric_fitness(mirrored):
    """F(x) = Σ c x + x³, so ∇F_σ(θ) = c + 3 θ² + 3 σ²: a sign, a σ or a factor 2 would show."""
    one = partial(
        estimate, fitness_of=lambda x: SLOPE @ x + (x**3).sum(), num_members=16, mirrored=mirrored
    )
    g = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000)))
    standard_error = g.std(0) / np.sqrt(len(g))
    truth = SLOPE + 3 * CENTER**2 + 3 * SIGMA**2
    assert (abs(g.mean(0) - truth) < STANDARD_ERRORS * standard_error).all()


@pytest.mark.parametrize("num_members, rollouts", [(4, 4), (32, 1)])
def test_the_variance_bound_holds(num_members, rollouts):
    """|F| ≤ B: E‖g - ∇F_σ‖² ≤ d(B² + C/N)/(mσ²), C the variance of one return, N the rollouts."""
    bound, noise_variance = 1.0, 0.5
    noise_scale = np.sqrt(noise_variance / rollouts)

    def one(key):
        noise_key, return_key = jax.random.split(key)
        x = members(noise_key, CENTER, num_members=num_members, mirrored=False)
        jitter = noise_scale * jax.random.normal(return_key, (num_members,))
        weights = one_sided(jnp.sin(x @ SLOPE) + jitter)
        return nes_gradient(lambda j: perturbation(noise_key, j, CENTER), weights, SIGMA)

    g = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 2000)))
    truth = np.asarray(SLOPE * jnp.cos(SLOPE @ CENTER) * jnp.exp(-(SIGMA**2) * SLOPE @ SLOPE / 2))
    squared = ((g - truth) ** 2).sum(1)
    standard_error = squared.std() / np.sqrt(len(squared))
    d = CENTER.size
    limit = d * (bound**2 + noise_variance / rollouts) / (num_members * SIGMA**2)
    assert squared.mean() <= limit + STANDARD_ERRORS * standard_error
    assert squared.mean() >= limit / 20  # a gradient that is always right would be a wrong test


# ------------------------------------------------------------------------------------- low rank

MATRIX = jax.random.normal(KEY, (6, 4))
LINEAR, CUBIC = jax.random.normal(jax.random.key(4), (2, 6, 4))


FITNESS = {
    "linear": lambda x: (LINEAR * x).sum(),
    "quadratic": lambda x: (LINEAR * x).sum() + ((CUBIC * x) ** 2).sum(),
    "cubic": lambda x: (CUBIC * x**3).sum(),
}


@functools.cache
def estimates(rank, *, generations=2000, num_members=32):
    """g of many mirrored generations around a matrix, with raw returns, for every fitness."""

    def estimate(key):
        draw = partial(perturbation, key, params=MATRIX, rank=rank)

        def fitness(i):
            e = draw(i // 2)
            x = MATRIX + SIGMA * (1 - 2 * (i % 2)) * e.a @ e.b.T
            return jnp.stack([f(x) for f in FITNESS.values()])

        weights = jax.vmap(mirrored, 1)(jax.vmap(fitness)(jnp.arange(num_members)))
        return jax.vmap(lambda w: nes_gradient(draw, w, SIGMA))(weights)

    g = jax.jit(jax.vmap(estimate, out_axes=1))(jax.random.split(KEY, generations))
    return dict(zip(FITNESS, np.asarray(g), strict=True))


@pytest.mark.parametrize("chunk_entries", [60, 2**22])
def test_factors_are_contracted_to_the_dense_sum(monkeypatch, chunk_entries):
    monkeypatch.setattr(gradient, "CHUNK_ENTRIES", chunk_entries)
    params = {"kernel": MATRIX, "bias": jnp.zeros(3)}
    draw = partial(perturbation, KEY, params=params, rank=2)
    weights = np.random.default_rng(0).normal(size=13).astype(np.float32)
    noise = jax.vmap(draw)(jnp.arange(13))
    dense = np.einsum("n,nir,nor->io", weights, noise["kernel"].a, noise["kernel"].b) / SIGMA
    g = jax.jit(lambda w: nes_gradient(draw, w, SIGMA))(weights)
    np.testing.assert_allclose(g["kernel"], dense, rtol=1e-5, atol=1e-5)
    bias = np.einsum("n,n...->...", weights, noise["bias"]) / SIGMA
    np.testing.assert_allclose(g["bias"], bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_low_rank_has_no_bias_on_a_quadratic(rank):
    """F(X) = ⟨C, X⟩ + ‖X∘D‖²: ∇F_σ = ∇F at any rank."""
    g = estimates(rank)["quadratic"]
    errors = (g.mean(0) - (LINEAR + 2 * CUBIC**2 * MATRIX)) / (g.std(0) / np.sqrt(len(g)))
    assert abs(errors).max() < STANDARD_ERRORS


@pytest.mark.parametrize("rank", [1, 2])
def test_the_bias_on_a_cubic_is_that_of_its_fourth_moments(rank):
    """F(X) = Σ D x³: E ε⁴ = 3 + 6/r, so ∇F_σ - ∇F = D σ² (3 + 6/r), 3 σ² D at full rank."""
    g = estimates(rank)["cubic"]
    truth = CUBIC * (3 * MATRIX**2 + SIGMA**2 * (3 + 6 / rank))
    errors = (g.mean(0) - truth) / (g.std(0) / np.sqrt(len(g)))
    assert abs(errors).max() < STANDARD_ERRORS


@pytest.mark.parametrize("rank", [1, 2])
def test_the_variance_of_a_generation_is_that_of_the_closed_form(rank):
    """Linear F = ⟨C, X⟩: n·(E‖g‖² - ‖C‖²) = ‖C‖²(d + 1 + 2(in + out + 1)/r), n directions."""
    g = estimates(rank)["linear"]
    squared, size = (g**2).sum((1, 2)), float((LINEAR**2).sum())
    expected = size + size * (24 + 1 + 2 * (6 + 4 + 1) / rank) / 16
    standard_error = squared.std() / np.sqrt(len(squared))
    assert abs(squared.mean() - expected) < STANDARD_ERRORS * standard_error


def test_half_precision_noise_is_summed_in_float32(monkeypatch):
    monkeypatch.setattr(gradient, "CHUNK_ENTRIES", 8)
    params, n = jnp.zeros(8, jnp.bfloat16), 3000
    draw = partial(perturbation, KEY, params=params)
    weights = jnp.full(n, 1 / n)
    g = np.float64(jax.jit(lambda w: nes_gradient(draw, w, 1.0))(weights))
    mean = np.float64(jax.jit(jax.vmap(draw))(jnp.arange(n))).mean(0)
    np.testing.assert_allclose(g, mean, rtol=2**-7)
