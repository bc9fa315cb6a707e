"""A trained policy as plain arrays, with what it does not read or use left out."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nesht_jax.policy.normalize import running_scale
from nesht_jax.run.functions import FUNCTIONS
from nesht_jax.run.load import TrainedPolicy
from nesht_jax.run.reading import unit_names


class PlainPolicy(NamedTuple):
    """A dense policy as plain arrays.

    Attributes:
        task: name of the task.
        num_features: features of a whole observation, distractors included.
        inputs: numbers of the features that are read.
        sensors: names of these.
        motors: names of actions, or of choices.
        mean: means that are taken from the inputs.
        spread: what they are divided by then.
        clip: bound of what that gives.
        layers: weights and biases, first to last.
        functions: functions of the units of each hidden layer, by their names in
            ``run.functions``, each with how many units in a row have it.
        output: "scale", "tanh" or "clip": see ``PolicyConfig.output``; all are clipped to bounds.
        low: lower bound of each action.
        high: upper bound of each action.
        discrete: whether the number of the highest score is the action.
    """

    task: str
    num_features: int
    inputs: Int[np.ndarray, " inputs"]
    sensors: tuple[str, ...]
    motors: tuple[str, ...]
    mean: Float[np.ndarray, " inputs"]
    spread: Float[np.ndarray, " inputs"]
    clip: float
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    functions: tuple[tuple[tuple[str, int], ...], ...]
    output: str
    low: Float[np.ndarray, " a"]
    high: Float[np.ndarray, " a"]
    discrete: bool

    @property
    def num_weights(self) -> int:
        """Weights that are not 0."""
        return sum(int(np.count_nonzero(weights)) for weights, _ in self.layers)

    @property
    def bounded(self) -> Bool[np.ndarray, " a"]:
        """Which actions have two finite bounds."""
        return np.isfinite(self.low) & np.isfinite(self.high)

    @property
    def base(self) -> Float[np.ndarray, " a"]:
        """Lower bounds where there are two, else 0."""
        return np.where(self.bounded, self.low, np.float32(0))

    @property
    def span(self) -> Float[np.ndarray, " a"]:
        """Upper less lower bounds where there are two, else 0."""
        return np.where(self.bounded, self.high, np.float32(0)) - self.base

    def __call__(self, observation: Any, numpy: Any = np) -> Any:
        """Acts on observations, along the last axis, as the exported files do.

        Args:
            observation: observations, as arrays of ``numpy``.
            numpy: ``numpy`` or ``jax.numpy``.
        """
        x = (observation[..., self.inputs] - self.mean) / self.spread
        x = numpy.clip(x, -np.float32(self.clip), np.float32(self.clip))
        *hidden, (weights, biases) = self.layers
        for (w, b), groups in zip(hidden, self.functions, strict=True):
            x = x @ w + b
            ends = np.cumsum([number for _, number in groups])[:-1]
            parts = zip(groups, numpy.split(x, ends.tolist(), axis=-1), strict=True)
            x = numpy.concatenate(
                [FUNCTIONS[name].of(numpy, part) for (name, _), part in parts], -1
            )
        x = x @ weights + biases
        if self.discrete:
            return numpy.argmax(x, axis=-1)
        if self.output == "scale":
            x = numpy.where(self.bounded, self.base + (numpy.tanh(x) + 1) / 2 * self.span, x)
        return numpy.clip(numpy.tanh(x) if self.output == "tanh" else x, self.low, self.high)


def plain(policy: TrainedPolicy, *, dense: bool = False) -> PlainPolicy:
    """Makes plain arrays of a trained policy.

    Args:
        policy: trained policy.
        dense: whether to put random weights in the place of those that are 0: the dense policy of
            the same shape, whose size and time the sparse one is compared with.

    Raises:
        ValueError: if the policy looks at images, or normalizes otherwise than input by input.
    """
    config, task, reading = policy.config.policy, policy.task, policy.reading
    if reading is None:
        raise ValueError(f"export is for policies that read sensors, and {task.name} shows images")
    if config.normalization not in ("running", "none"):
        raise ValueError(
            f"export is for normalization running or none; {config.normalization} mixes all inputs"
        )
    layers = [_weights(policy, layer.name) for layer in policy.policy.layers]
    # what the last layer of an agent gives beyond actions, as their deviations, is not played
    weights, biases = layers[-1]
    layers[-1] = weights[:, : task.num_actions], biases[: task.num_actions]
    if dense:
        rng = np.random.default_rng(0)
        layers = [(_filled(weights, rng), biases) for weights, biases in layers]
    names = unit_names(policy.config, policy.policy, policy.params)
    layers, functions = _grouped(*_without_dead(layers, [np.array(own) for own in names]))
    inputs = np.flatnonzero(layers[0][0].any(1))
    first, biases = layers[0]
    mean, spread, clip = np.zeros(inputs.size), np.ones(inputs.size), np.inf
    if policy.moments is not None and config.normalization == "running":
        spread = np.asarray(running_scale(policy.moments))[inputs]
        mean, clip = np.asarray(policy.moments.mean)[inputs], config.clip
    return PlainPolicy(
        task=task.name,
        num_features=task.num_features,
        inputs=inputs,
        sensors=tuple(reading.inputs[i] for i in inputs),
        motors=task.action_names or tuple(f"action {i}" for i in range(task.num_actions)),
        mean=mean.astype(np.float32),
        spread=spread.astype(np.float32),
        clip=clip,
        layers=((first[inputs], biases), *layers[1:]),
        functions=functions,
        output="clip" if config.output == "sample" else config.output,
        low=task.action_low,
        high=task.action_high,
        discrete=task.discrete,
    )


def _weights(policy: TrainedPolicy, layer: str) -> tuple[np.ndarray, np.ndarray]:
    kernel, bias = (np.asarray(policy.params[layer][name]) for name in ("kernel", "bias"))
    return kernel, bias


def _filled(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.normal(size=weights.shape).astype(np.float32)
    return np.where(weights == 0, drawn, weights)


Layers = list[tuple[np.ndarray, np.ndarray]]


def _without_dead(layers: Layers, names: list[np.ndarray]) -> tuple[Layers, list[np.ndarray]]:
    """Drops hidden units that nothing reads; ``names`` are the functions of each layer's."""
    for i in range(len(layers) - 1, 0, -1):
        used = layers[i][0].any(1)
        layers, names = _with_units(layers, names, i - 1, np.flatnonzero(used))
    return layers, names


def _grouped(
    layers: Layers, names: list[np.ndarray]
) -> tuple[Layers, tuple[tuple[tuple[str, int], ...], ...]]:
    """Puts units of one function beside one another, and counts them."""
    functions = []
    for i in range(len(names)):
        layers, names = _with_units(layers, names, i, np.argsort(names[i], kind="stable"))
        known, numbers = np.unique(names[i], return_counts=True)
        groups = tuple(zip(known.tolist(), numbers.tolist(), strict=True))
        functions.append(groups or (("identity", 0),))  # of a layer of which no unit is read
    return layers, tuple(functions)


def _with_units(
    layers: Layers, names: list[np.ndarray], i: int, units: np.ndarray
) -> tuple[Layers, list[np.ndarray]]:
    """These units of hidden layer i, in this order, and no others."""
    (before, biases), (weights, rest) = layers[i], layers[i + 1]
    chosen = [(before[:, units], biases[units]), (weights[units], rest)]
    return [*layers[:i], *chosen, *layers[i + 2 :]], [*names[:i], names[i][units], *names[i + 1 :]]


def like_training(policy: TrainedPolicy, *, number: int = 256) -> Float[np.ndarray, "number o"]:
    """Draws observations like those of training, or from N(0, 1) where no moments tell."""
    drawn = np.random.default_rng(0).normal(size=(number, policy.task.num_features))
    if policy.moments is not None:
        drawn = np.asarray(policy.moments.mean) + np.asarray(running_scale(policy.moments)) * drawn
    return drawn.astype(np.float32)
