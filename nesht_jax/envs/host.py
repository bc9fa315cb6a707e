"""What suites share whose simulators are stepped on the host."""

import functools
import math
import os
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, UInt8

from nesht_jax.envs import distractors
from nesht_jax.envs.suite import VectorEnv
from nesht_jax.types import Moments, Params, Policy, Task


def cores() -> int:
    """Counts the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reset_streams(
    num_members: int, episodes_per_member: int, *, common_random_numbers: bool
) -> Int[np.ndarray, " episodes"]:
    """Numbers the stream that each episode's reset is drawn from, member by member.

    Args:
        num_members: number m of members.
        episodes_per_member: episodes of each member.
        common_random_numbers: whether members 2j and 2j + 1 share theirs.
    """
    member, episode = np.divmod(np.arange(num_members * episodes_per_member), episodes_per_member)
    return (member // 2 if common_random_numbers else member) * episodes_per_member + episode


def batched_act(
    policy: Policy, task: Task, *, action_noise: float, scale: float = 1.0
) -> Callable[..., tuple[Array, Moments | None]]:
    """Makes the jitted call of the policy for a batch of environments.

    It takes ``assemble`` of the population, the moments that policies read, what each environment's
    member has drawn, what it is shown, N(0, 1) numbers for its action, the moments gathered so far,
    and which rows count. It returns actions, and the moments with the rows that count. Where what
    is shown is not finite, or a component of the action is NaN, the episode has failed: all
    components are NaN, and the row does not count.

    Args:
        policy: policy of all members.
        task: task whose bounds hold.
        action_noise: standard deviation of the noise on actions.
        scale: factor between what an environment is shown and what its policy sees.
    """

    @jax.jit
    def batched(
        assemble: Callable[[Any], Params],
        moments: Moments | None,
        drawn: Any,
        shown: Real[Array, "envs o"],
        action_normals: Float[Array, "envs _"],
        observed: Moments | None,
        counted: Bool[Array, " envs"],
    ) -> tuple[Float[Array, "envs a"], Moments | None]:
        seen = scale * shown.astype(jnp.float32)
        action = jax.vmap(lambda drawn, x: policy.apply(assemble(drawn), moments, x))(drawn, seen)
        valid = jnp.isfinite(seen).all(1) & ~jnp.isnan(action).any(1)
        action = distractors.act(
            action, action_normals, task, action_noise=action_noise, stochastic=policy.stochastic
        )
        if observed is not None:
            observed = observed.merge(Moments.of_batch(seen, counted & valid))
        return jnp.where(valid[:, None], action, jnp.nan), observed

    return batched


def mean_returns(
    returns: Float[np.ndarray, "m episodes"],
) -> Float[Array, " m"]:
    """Averages returns to fitness in float32; NaN where a return is no finite number in it."""
    with np.errstate(over="ignore", invalid="ignore"):
        fitness = returns.mean(1).astype(np.float32)
    return jnp.asarray(np.where(np.isfinite(fitness), fitness, np.nan), jnp.float32)


def random_play(
    vector: VectorEnv, task: Task, *, number: int, seed: int
) -> Float[np.ndarray, "number o"]:
    """Gathers what one environment shows while its actions are drawn uniformly.

    Within finite bounds they are uniform; elsewhere, as scores are, uniform on -1 ... 1.

    Args:
        vector: vector of one environment.
        task: task of the environment.
        number: observations to gather, over as many episodes as it takes.
        seed: seed of the actions.
    """
    generator, first = np.random.default_rng(seed), np.zeros(1, np.int32)
    bounded = np.isfinite(task.action_low) & np.isfinite(task.action_high)
    low, high = np.where(bounded, task.action_low, -1), np.where(bounded, task.action_high, 1)
    shown = [vector.reset(first)]
    while len(shown) < number:
        action = generator.uniform(low, high)[None].astype(np.float32)
        step = vector.step(action, first)
        over = bool(step.terminated[0] | step.truncated[0])
        shown.append(vector.reset(first) if over else step.observation)
    return np.concatenate(shown)


def normals(stream: np.random.BitGenerator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Draws N(0, 1) in float32, from 16 random bits each: distractors and noise on actions.

    Much faster than NumPy's own, which slow a simulator in C++ down. The distribution function
    differs from that of N(0, 1) by less than 2⁻¹⁶, mean and variance are exact, and the largest
    values are ±4.3.
    """
    # a mode other than "raise" checks no index, which is half the time
    return _quantiles().take(_random_bits(stream, shape, np.uint16), mode="clip")


def uniform_bytes(
    stream: np.random.BitGenerator, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "..."]:
    """Draws bytes uniform on 0 ... 255: distractors of what is shown in bytes, as pixels are."""
    return _random_bits(stream, shape, np.uint8)


def random_integers(
    stream: np.random.BitGenerator, shape: tuple[int, ...], below: int
) -> Int[np.ndarray, "..."]:
    """Draws integers uniform on 0 ... below - 1, of 2¹⁶ equal parts: below is a power of 2."""
    return _random_bits(stream, shape, np.uint16).astype(np.int64) % below


def _random_bits(stream: np.random.BitGenerator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = math.prod(shape)
    num_draws = -(-size * np.dtype(dtype).itemsize // 8)
    return stream.random_raw(num_draws).view(dtype)[:size].reshape(shape)


@functools.cache
def _quantiles() -> Float[np.ndarray, "65536"]:
    """Quantiles of N(0, 1) at the middle of 2¹⁶ equal parts of (0, 1), scaled to variance 1."""
    middle = np.array([NormalDist().inv_cdf((i + 0.5) / 2**16) for i in range(2**16)])
    return (middle / middle.std()).astype(np.float32)
