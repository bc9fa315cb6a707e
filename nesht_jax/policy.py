"""Networks as policies (init, apply) of one observation."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nesht_jax.contract import Members, Params
from nesht_jax.network import REFERENCE, Convolution, Network, Residual, smallest_edge

Output = Literal["tanh", "clip", "scale", "sample"]


def _as_they_are(members: Members) -> Members:
    return members


class Policy(NamedTuple):
    """What acts on an observation.

    Attributes:
        init: key -> params.
        apply: (params, moments, observation [o]) -> action [a], within the action bounds. The
            params are those of prepared members.
        observes: whether ``apply`` reads the running observation moments.
        samples: whether the room draws an action from the softmax of the scores that ``apply``
            gives, instead of playing the highest.
        prepare: members -> members, before they play. Virtual batch normalisation computes here,
            once an episode, what the network makes of the reference observations.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Any, Float[Array, " o"]], Float[Array, " a"]]
    observes: bool
    samples: bool = False
    prepare: Callable[[Members], Members] = _as_they_are


def make_policy(
    num_features: int,
    action_low: Float[np.ndarray, " a"],
    action_high: Float[np.ndarray, " a"],
    *,
    hidden: tuple[int, ...] = (),
    activation: Callable[[Array], Array] = jnp.tanh,
    output: Output = "tanh",
    convolutions: tuple[Convolution | Residual, ...] = (),
    frames: tuple[int, int, int] | None = None,
    normalizer: Any,
    reference: Float[np.ndarray, "references o"] | None = None,
) -> Policy:
    """A linear policy, or an MLP if ``hidden`` names layers, after convolutions if there are any.

    Args:
        num_features: o, the length of an observation with its noise features.
        action_low: lower action bounds.
        action_high: upper action bounds.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: between layers.
        output: ``"tanh"`` as it is, in [-1, 1]; ``"clip"`` to the bounds; ``"scale"`` maps tanh
            onto the bounds, which must be finite. Where an action is chosen by the highest score,
            the bounds are infinite: ``"clip"`` leaves scores as they are, ``"tanh"`` keeps their
            order until they saturate, and ``"sample"`` draws the action from their softmax.
        convolutions: before the dense layers, each with the activation after it.
        frames: channels, height and width of the observation, with noise channels, for them.
        normalizer: a ``normalize.Normalizer``.
        reference: observations of virtual batch normalisation, which is off without them; it does
            not go with running moments.

    Raises:
        ValueError: if ``"scale"`` is asked for with infinite bounds, or ``"sample"`` with finite
            ones; if there are convolutions but no frames, or frames too small for them; if there
            is a reference but no layer that it could normalise.
    """
    low, high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
    finite = np.isfinite([low, high])
    if output == "scale" and not finite.all():
        raise ValueError("output 'scale' needs finite action bounds; use 'tanh' or 'clip'")
    if output == "sample" and finite.any():
        raise ValueError("output 'sample' draws one of several actions; this task has none")
    if convolutions:
        _check_frames(convolutions, frames)
    if reference is not None and not (convolutions or hidden):
        raise ValueError("virtual batch normalisation is for layers with an activation: give some")
    network = Network(
        (*hidden, len(low)), activation, convolutions, frames, normalized=reference is not None
    )
    bound = {
        "tanh": jnp.tanh,
        "clip": lambda x: jnp.clip(x, low, high),
        "scale": lambda x: low + (jnp.tanh(x) + 1) / 2 * (high - low),
        "sample": lambda x: x,
    }[output]

    def init(key: Key[Array, ""]) -> Params:
        return network.init(key, jnp.zeros(num_features))["params"]

    def apply(params: Params, moments: Any, observation: Float[Array, " o"]) -> Float[Array, " a"]:
        variables = {"params": params} if reference is None else params
        return bound(network.apply(variables, normalizer.apply(moments, observation)))

    if convolutions and jax.default_backend() == "cpu":
        # one member after the other: what a network makes of a frame stays in a core's cache
        apply = jax.custom_batching.sequential_vmap(apply)
    prepare = _as_they_are if reference is None else _preparing(network, normalizer, reference)
    return Policy(init, apply, normalizer.running, output == "sample", prepare)


def _preparing(
    network: Network, normalizer: Any, reference: Float[np.ndarray, "references o"]
) -> Callable[[Members], Members]:
    """Gives every member, beside its params, the statistics of its layers."""

    # one member after the other: its outputs for all references fill a cache
    @jax.custom_batching.sequential_vmap
    def statistics(params: Params) -> Any:
        def seen(observation: Array) -> Any:
            _, collected = network.apply(
                {"params": params},
                normalizer.apply(None, observation),
                collect=True,
                mutable=["batch_stats"],
            )
            return collected["batch_stats"]

        alike = jax.vmap(seen, axis_name=REFERENCE)(jnp.asarray(reference))
        return jax.tree.map(lambda x: x[0], alike)

    def own(members: Members, i: Any) -> Any:
        mine = members.own(i)
        return mine, statistics(members.params(mine))

    def params(members: Members, own: Any) -> Any:
        mine, collected = own
        return {"params": members.params(mine), "batch_stats": collected}

    def prepare(members: Members) -> Members:
        return Members(jax.tree_util.Partial(own, members), jax.tree_util.Partial(params, members))

    return prepare


def _check_frames(
    convolutions: tuple[Convolution | Residual, ...], frames: tuple[int, int, int] | None
) -> None:
    if frames is None:
        raise ValueError("convolutions need a task that shows frames; this one shows a vector")
    smallest = smallest_edge(convolutions)
    if min(frames[1:]) < smallest:
        raise ValueError(
            f"frames of {frames[1]} x {frames[2]} pixels are too small for the convolutions, which "
            f"need {smallest} x {smallest}"
        )


def segment_norms(params: Params, noise: int) -> Float[Array, " segments"]:
    """‖W[s]‖₂ of the first layer's rows for segment s = 0 … N of the observation.

    Segment 0 is the true observation, the others are task-irrelevant noise.
    """
    kernel = params["layer0"]["kernel"]
    return jnp.linalg.norm(kernel.reshape(1 + noise, -1), axis=1)
