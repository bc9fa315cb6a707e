"""Networks as policies (init, apply) of one observation."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nesht_jax.policy.convolution import Convolutions, Residual, smallest_edge
from nesht_jax.policy.network import Network, layers_of
from nesht_jax.policy.normalize import Normalizer, unnormalized
from nesht_jax.policy.virtual_batch import WITHOUT, virtual_batch
from nesht_jax.types import Layer, Moments, Params, Policy, Task

Output = Literal["scale", "clip", "tanh", "sample"]
Start = Literal["normal", "zero"]

_UNNORMALIZED = unnormalized()


def make_policy(
    task: Task,
    *,
    hidden: tuple[int, ...] = (),
    activation: Callable[[Array], Array] | None = jnp.tanh,
    output: Output = "scale",
    start: Start = "normal",
    convolutions: Convolutions = (),
    normalize: Normalizer = _UNNORMALIZED,
    reference: Float[np.ndarray, "references o"] | None = None,
) -> Policy:
    """Makes a linear policy, or an MLP if ``hidden`` names layers, after convolutions if any.

    No action leaves the finite bounds of the task.

    Args:
        task: task whose observations the policy sees and whose actions it gives.
        hidden: widths of the hidden layers; none makes the policy linear.
        activation: function between layers; None: each hidden unit has its own, whose number in
            ``ACTIVATIONS`` params hold, see ``policy.structure``.
        output: how the last layer's outputs become an action. ``"scale"`` maps their tanh onto the
            bounds of a component where both are finite; where not, the plain number is clipped to
            what bound there is, so that choices get plain scores. ``"clip"`` clips plain numbers to
            the bounds. ``"tanh"`` is their tanh, as in the published code, clipped to the bounds;
            see ``unreachable``. ``"sample"`` gives plain scores, from whose softmax the suite draws
            the choice.
        start: how the last layer begins: ``"normal"``, drawn as every other layer, or ``"zero"``,
            so that actions begin at 0, and by output ``"scale"`` at the middle of finite bounds.
        convolutions: layers before the dense ones, for tasks that show images.
        normalize: what the network is given of an observation: ``by_running_moments()``,
            ``by_observation()`` or ``unnormalized()``.
        reference: observations, distractors included, of virtual batch normalization, which is off
            without them.

    Raises:
        ValueError: in one sentence, if the task does not go with the output, the convolutions or
            the normalization; or if there is a reference but no layer that it could normalize, or
            a normalization by running moments beside it.
    """
    _check(task, output, convolutions, normalize)
    if convolutions and activation is None:
        raise ValueError("units with activations of their own are for policies of dense layers")
    zero = _checked_choice("start", start, Start) == "zero"
    if reference is not None:
        _check_reference(task, reference, normalize, bool(convolutions or hidden))
    sizes, normalized = (*hidden, task.num_actions), reference is not None
    network = Network(sizes, activation, convolutions, task.seen_image_shape, normalized)
    batch = WITHOUT if reference is None else virtual_batch(network, normalize, reference)
    bounded = _bounding(task, output)

    layers = layers_of(network, task.num_features)

    def init(key: Key[Array, ""]) -> Params:
        params = network.init(key, jnp.zeros(task.num_features, jnp.float32))["params"]
        last = layers[-1].name
        return {**params, last: jax.tree.map(jnp.zeros_like, params[last])} if zero else params

    def apply(
        params: Params, moments: Moments | None, observation: Float[Array, " o"]
    ) -> Float[Array, " a"]:
        seen = normalize.apply(moments, jnp.asarray(observation, jnp.float32))
        return bounded(network.apply(batch.variables(params), seen))

    if convolutions and jax.default_backend() == "cpu":
        # one member after the other: what a network makes of an image stays in a core's cache
        apply = jax.custom_batching.sequential_vmap(apply)
    return Policy(
        init=init,
        apply=apply,
        uses_moments=normalize.uses_moments,
        stochastic=output == "sample",
        prepare=batch.prepare,
        layers=layers,
    )


def _bounding(task: Task, output: Output) -> Callable[[Any], Array]:
    """The function from the last layer's outputs to an action."""
    if output == "sample":
        return lambda x: x
    low, high = (np.asarray(bound, np.float32) for bound in (task.action_low, task.action_high))
    with np.errstate(over="ignore"):
        span = high - low
    # float32's largest numbers as bounds mean that there is none: their difference overflows
    both = np.isfinite(span)
    base, span = np.where(both, low, np.float32(0)), np.where(both, span, np.float32(0))

    def scaled(x: Array) -> Array:
        return jnp.where(both, base + (jnp.tanh(x) + 1) / 2 * span, x)

    inner = {"scale": scaled, "clip": lambda x: x, "tanh": jnp.tanh}[output]
    # clipped in any case: low + (high - low) may be one rounding above high
    return lambda x: jnp.clip(inner(x), low, high)


def unreachable(task: Task, output: Output) -> str | None:
    """Tells in one sentence if finite bounds of an action are out of an output's reach; else None.

    Only ``"tanh"`` has such tasks: those whose bounds [-1, 1] does not cover.
    """
    if output != "tanh":
        return None
    low, high = task.action_low, task.action_high
    lowest, highest = np.clip(-1.0, low, high), np.clip(1.0, low, high)
    beyond = (np.isfinite(low) & (low < lowest)) | (np.isfinite(high) & (high > highest))
    still = (lowest == highest) & (low < high)
    if not (beyond | still).any():
        return None
    i = np.argmax(beyond | still)
    return (
        f"{task.name}: with output tanh, action {i} reaches {lowest[i]:g} ... {highest[i]:g} of "
        f"{low[i]:g} ... {high[i]:g}; set policy.output: scale"
    )


def blindness(task: Task, normalize: Normalizer) -> str | None:
    """Tells in one sentence if a normalization hides the whole observation of a task; else None."""
    if task.num_features >= normalize.min_features:
        return None
    features = "one feature" if task.num_features == 1 else f"{task.num_features} features"
    return (
        f"{task.name} shows {features}, of which normalization within each observation leaves "
        "nothing to see; set policy.normalization: running"
    )


def _check(task: Task, output: str, convolutions: Convolutions, normalize: Normalizer) -> None:
    _checked_choice("output", output, Output)
    if output == "sample" and not task.discrete:
        raise ValueError(
            f"output sample draws one of several choices, and actions of {task.name} are none; "
            "set policy.output: scale"
        )
    blind = blindness(task, normalize)
    if blind:
        raise ValueError(blind)
    if convolutions:
        _check_image(task, convolutions)


def _checked_choice(name: str, value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    return value


def _check_image(task: Task, convolutions: Convolutions) -> None:
    if task.image_shape is None:
        raise ValueError(
            f"convolutions need images, and {task.name} shows a vector; set policy.convolutions: "
            "none"
        )
    for part in convolutions:
        if not isinstance(part, Residual) and part.size % part.stride:
            raise ValueError(f"size of a convolution must be a multiple of its stride, got {part}")
    _, height, width = task.image_shape
    smallest = smallest_edge(convolutions)
    if min(height, width) < smallest:
        raise ValueError(
            f"images of {task.name}, {height} x {width} pixels, are too small for the "
            f"convolutions, which need {smallest} x {smallest}"
        )


def _check_reference(
    task: Task, reference: np.ndarray, normalize: Normalizer, has_activations: bool
) -> None:
    if not has_activations:
        raise ValueError(
            "virtual batch normalization is for layers with an activation, and the policy has "
            "none; set policy.hidden or policy.convolutions"
        )
    if normalize.uses_moments:
        raise ValueError(
            "virtual batch normalization does not go with running moments, which would change the "
            "reference in each generation; use normalize=unnormalized()"
        )
    if reference.shape[1:] != (task.num_features,):
        raise ValueError(
            f"reference observations of {task.name} must have {task.num_features} features, got "
            f"shape {reference.shape}"
        )


def segment_norms(
    params: Params, layers: tuple[Layer, ...], distractors: int
) -> Float[Array, " segments"]:
    """Computes ‖W[s]‖₂ of the rows that read segment s = 0 ... N of the observation.

    Segment 0 is the true observation, the others are distractors. A row of filters reads a pixel of
    a channel. If several layers read the observation, W are their kernels side by side.

    Args:
        params: params of a policy; its kernels are found by their paths, whatever holds them.
        layers: what the policy tells of its layers.
        distractors: N.

    Returns:
        1 + N norms; none where no layer tells that it reads the observation, or where the
        kernel of one that does is not in params as told, or does not divide among the segments.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    segments, blocks = 1 + distractors, []
    for layer in layers:
        if layer.inputs != "observation":
            continue
        kernel = leaves.get(layer.kernel, np.zeros(0))
        told = {layer.shape, (layer.fan_in, layer.fan_out)}
        if np.shape(kernel) not in told or layer.shape[0] % segments:
            return jnp.zeros(0, jnp.float32)
        blocks.append(jnp.reshape(kernel, (segments, -1)))
    if not blocks:
        return jnp.zeros(0, jnp.float32)
    return jnp.linalg.norm(jnp.concatenate(blocks, axis=1), axis=1)
