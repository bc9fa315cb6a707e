"""What the rooms share whose simulators are stepped on the host."""

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real, UInt8

from nesht_jax import normalize
from nesht_jax.contract import Params
from nesht_jax.envs import noisy
from nesht_jax.envs.task import TaskSpec
from nesht_jax.policy import Policy


def batched_act(
    policy: Policy, task: TaskSpec, action_noise: float, scale: float = 1.0
) -> Callable[..., tuple[Array, normalize.Moments | None]]:
    """Jitted: the actions of a batch of slots, and the moments with what they saw.

    Its arguments are ``params`` of ``contract.Members``, the moments that policies read, what each
    slot has of its own, what it is shown, N(0, 1) for its action, the moments so far, and who
    counts. ``scale`` times what a slot is shown is what its policy sees.
    """

    @jax.jit
    def batched(
        params: Callable[[Any], Params],
        moments: normalize.Moments | None,
        own: Any,
        seen: Real[Array, "slot o"],
        jitter: Float[Array, "slot _"],
        observed: normalize.Moments | None,
        counted: Bool[Array, " slot"],
    ) -> tuple[Float[Array, "slot a"], normalize.Moments | None]:
        seen = scale * seen.astype(jnp.float32)
        action = jax.vmap(lambda own, x: policy.apply(params(own), moments, x))(own, seen)
        action = noisy.act(action, jitter, task, action_noise=action_noise, samples=policy.samples)
        if observed is not None:
            observed = normalize.merge(observed, normalize.of_batch(seen, counted))
        return action, observed

    return batched


def normals(bits: np.random.BitGenerator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """N(0, 1) in float32, from 16 random bits each: noise for observations and actions.

    Much faster than NumPy's own, which slow a simulator in C++ down. The distribution function
    differs from that of N(0, 1) by less than 2⁻¹⁶, mean and variance are exact, and the largest
    values are ±4.3.
    """
    return _quantiles().take(_words(bits, shape, np.uint16), mode="clip")  # checks no index


def uniform_bytes(bits: np.random.BitGenerator, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Uniform on 0 … 255: noise for what is shown in bytes, as pixels are."""
    return _words(bits, shape, np.uint8)


def _words(bits: np.random.BitGenerator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = math.prod(shape)
    words = -(-size * np.dtype(dtype).itemsize // 8)
    return bits.random_raw(words).view(dtype)[:size].reshape(shape)


@functools.cache
def _quantiles() -> Float[np.ndarray, "65536"]:
    """Those of N(0, 1) at the middle of 2¹⁶ equal parts of (0, 1), scaled to variance 1."""
    middle = np.array([NormalDist().inv_cdf((i + 0.5) / 2**16) for i in range(2**16)])
    return (middle / middle.std()).astype(np.float32)
