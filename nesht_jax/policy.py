"""Flax networks as (init, apply) of one observation."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from nesht_jax.contract import Params

Output = Literal["tanh", "clip", "scale"]


class Policy(NamedTuple):
    """A deterministic policy.

    Attributes:
        init: key -> params.
        apply: (params, moments, observation [o]) -> action [a], within the action bounds.
        observes: whether ``apply`` reads the running observation moments.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Any, Float[Array, " o"]], Float[Array, " a"]]
    observes: bool


class Dense(nn.Module):
    """x W + b, as flax has it, but W may also be a ``LowRank``."""

    features: int
    stddev: float

    @nn.compact
    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), shape)
        return x @ kernel + self.param("bias", nn.initializers.zeros, (self.features,))


class MLP(nn.Module):
    """Dense layers; kernels N(0, 2/(in + 1)), biases 0, as in the published MuJoCo code."""

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, x: Float[Array, " o"]) -> Float[Array, " a"]:
        for i, size in enumerate(self.sizes):
            stddev = float(np.sqrt(2 / (x.shape[-1] + 1)))
            x = Dense(size, stddev, name=f"layer{i}")(x)
            if i < len(self.sizes) - 1:
                x = self.activation(x)
        return x


def make_policy(
    num_features: int,
    action_low: Float[np.ndarray, " a"],
    action_high: Float[np.ndarray, " a"],
    *,
    hidden: tuple[int, ...] = (),
    activation: Callable[[Array], Array] = jnp.tanh,
    output: Output = "tanh",
    normalizer: Any,
) -> Policy:
    """A linear policy, or an MLP if ``hidden`` names layers.

    Args:
        num_features: o, the length of an observation with its noise features.
        action_low: lower action bounds.
        action_high: upper action bounds.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: between layers.
        output: ``"tanh"`` as it is, in [-1, 1]; ``"clip"`` to the bounds; ``"scale"`` maps tanh
            onto the bounds, which must be finite. Where an action is chosen by the highest score,
            the bounds are infinite: ``"clip"`` leaves scores as they are, ``"tanh"`` keeps their
            order until they saturate.
        normalizer: a ``normalize.Normalizer``.

    Raises:
        ValueError: if ``"scale"`` is asked for with infinite bounds.
    """
    low, high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
    if output == "scale" and not np.isfinite([low, high]).all():
        raise ValueError("output 'scale' needs finite action bounds; use 'tanh' or 'clip'")
    network = MLP((*hidden, len(low)), activation)
    bound = {
        "tanh": jnp.tanh,
        "clip": lambda x: jnp.clip(x, low, high),
        "scale": lambda x: low + (jnp.tanh(x) + 1) / 2 * (high - low),
    }[output]

    def init(key: Key[Array, ""]) -> Params:
        return network.init(key, jnp.zeros(num_features))["params"]

    def apply(params: Params, moments: Any, observation: Float[Array, " o"]) -> Float[Array, " a"]:
        return bound(network.apply({"params": params}, normalizer.apply(moments, observation)))

    return Policy(init, apply, normalizer.running)


def segment_norms(params: Params, noise: int) -> Float[Array, " segments"]:
    """‖W[s]‖₂ of the first layer's rows for segment s = 0 … N of the observation.

    Segment 0 is the true observation, the others are task-irrelevant noise.
    """
    kernel = params["layer0"]["kernel"]
    return jnp.linalg.norm(kernel.reshape(1 + noise, -1), axis=1)
