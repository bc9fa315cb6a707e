"""Options for XLA: known to the JAX at hand, and left out where they are not."""

import jax
import jax.numpy as jnp
import pytest

from nesht_jax.envs.compiler import compiler_options


@pytest.fixture(autouse=True)
def forgotten():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_the_jax_at_hand_takes_them_and_computes_the_same():
    products = jax.vmap(lambda x: x @ x.T)
    x = jax.random.normal(jax.random.key(0), (32, 9, 9))
    with_options = jax.jit(products, compiler_options=compiler_options())
    assert jnp.allclose(with_options(x), jax.jit(products)(x), atol=1e-5)
    assert compiler_options() or jax.default_backend() != "cpu"


def test_accelerators_compile_as_they_do_by_default(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}


def test_an_unknown_option_is_left_out(monkeypatch):
    jit = jax.jit

    def renamed(function, compiler_options):
        options = {f"{name}_renamed": value for name, value in compiler_options.items()}
        return jit(function, compiler_options=options)

    monkeypatch.setattr(jax, "jit", renamed)
    assert compiler_options() == {}
