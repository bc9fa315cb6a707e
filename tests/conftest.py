"""Every test runs with shapes and types of ``nesht_jax`` checked, and strict JAX."""

import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("nesht_jax", "beartype.beartype")


@pytest.fixture(autouse=True)
def strict_rank_promotion(request):
    """Mark a test ``simulator`` if the simulator's own code broadcasts ranks."""
    rule = "allow" if request.node.get_closest_marker("simulator") else "raise"
    with jax.numpy_rank_promotion(rule):
        yield
