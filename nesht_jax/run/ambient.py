"""The settings of JAX that a run is made under, whatever the environment has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def pinned() -> Iterator[None]:
    """Pins what would change a run's numbers: 64-bit mode (optax computes with it where we leave
    dtypes to optax), the default kind of keys, and the promotion of dtypes. Also a decorator."""
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield
