"""What the policy of an experiment reads, and how it is wired, under the names of its task."""

import jax
import numpy as np

from nesht_jax.policy.activation import ACTIVATIONS, CHOICE
from nesht_jax.policy.size import Encoding, Size, size_of
from nesht_jax.report.reading import Reading
from nesht_jax.report.wiring import Wiring
from nesht_jax.run.config import Config
from nesht_jax.types import Params, Policy, Task


def reading(config: Config, task: Task, policy: Policy, params: Params) -> Reading | None:
    """Reads the first layer of a policy; None where that reads no vector.

    Args:
        config: config of the run.
        task: task of the run.
        policy: policy of the run.
        params: params of the policy, as sparse as the method makes them.
    """
    first, *others = policy.layers or (None,)
    if first is None or first.kind != "dense" or task.image_shape is not None:
        return None
    leaves = _leaves(params)
    units = tuple(f"unit {i}" for i in range(first.fan_out))
    return Reading(
        sensors=task.feature_names or tuple(f"feature {i}" for i in range(task.observation_size)),
        motors=units if others else _motors(task),
        weights=leaves[first.kernel],
        biases=leaves.get(f"{first.name}/bias", np.zeros(first.fan_out, np.float32)),
        formulas=() if others else _formulas(config, task),
        units=_units(config, task),
    )


def _leaves(params: Params) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in paths
    }


def _motors(task: Task) -> tuple[str, ...]:
    return task.action_names or tuple(f"action {i}" for i in range(task.num_actions))


def wiring(config: Config, task: Task, policy: Policy, params: Params) -> Wiring | None:
    """Reads how a policy is wired; None where its architecture was neither searched nor given.

    Args:
        config: config of the run.
        task: task of the run.
        policy: policy of the run.
        params: params of the policy, as sparse as the method makes them.
    """
    reads = reading(config, task, policy, params)
    if not config.structured or reads is None:
        return None
    leaves = _leaves(params)
    kernels = tuple(leaves[layer.kernel] for layer in policy.layers)
    nodes = [reads.inputs, *unit_names(config, policy, params), _motors(task)]
    shares = "colors" in config.search.space
    colors = config.search.colors or max(task.num_features, task.num_actions)
    return Wiring(tuple(nodes), kernels, colors if shares else 0)


def unit_names(config: Config, policy: Policy, params: Params) -> list[tuple[str, ...]]:
    """Names the functions of the hidden units, layer by layer."""
    leaves, functions, names = _leaves(params), list(ACTIVATIONS), []
    for number, layer in enumerate(policy.layers[:-1]):
        chosen = leaves.get(f"activation{number}/{CHOICE}")
        usual = (config.policy.activation,) * layer.fan_out
        names.append(usual if chosen is None else tuple(functions[i] for i in chosen.tolist()))
    return names


def size(config: Config, policy: Policy, params: Params) -> tuple[Size, Size]:
    """Counts what a policy of dense layers takes to write down, and what it would if dense."""
    leaves, kernels = _leaves(params), [(layer.fan_in, layer.fan_out) for layer in policy.layers]
    biases = sum(leaf.size for name, leaf in leaves.items() if name.endswith("/bias"))
    kept = sum(int(np.count_nonzero(leaves[layer.kernel])) for layer in policy.layers)
    colors = len(np.unique(np.concatenate([leaves[x.kernel].ravel() for x in policy.layers])))
    encoding: Encoding = config.policy.kernel
    if "colors" in config.search.space:
        encoding = "shared"
    elif encoding == "dense" and {"edges", "mask"} & set(config.search.space):
        encoding = "pruned"
    counted = size_of(kernels, encoding, biases=biases, colors=colors, kept=kept)
    return counted, size_of(kernels, "dense", biases=biases)


def size_in_words(config: Config, policy: Policy, params: Params) -> str:
    """Tells in one line what a policy takes to write down."""
    small, dense = size(config, policy, params)
    more = small.bits_with_positions
    beside = f" ({more:,} with positions)" if more > small.bits else ""
    return (
        f"{small.weights} weights in {small.bits:,} bits with biases{beside}, "
        f"{100 * small.compression(dense):.0f} % less than dense"
    )


def _units(config: Config, task: Task) -> str:
    """What ``policy.normalization`` makes of a sensor, in words; and what is made of choices."""
    drawn = config.policy.output == "sample"
    played = "one is drawn by their softmax" if drawn else "the highest is played"
    choice = f"{played}; " if task.discrete else ""
    most = "" if np.isinf(config.policy.clip) else f", at most ±{config.policy.clip:g}"
    return choice + {
        "running": f"every sensor is less its mean in training, in its standard deviations{most}",
        "observation": "every sensor is less the mean of all of them, in their standard deviation",
    }.get(config.policy.normalization, "every sensor is as the simulator shows it")


def _formulas(config: Config, task: Task) -> tuple[str, ...]:
    """What ``policy.output`` makes of the last layer's outputs, as ``make_policy`` does it."""
    if task.discrete:
        return ("{}",) * task.num_actions
    bounds = zip(task.action_low.tolist(), task.action_high.tolist(), strict=True)
    return tuple(_formula(config.policy.output, low, high) for low, high in bounds)


def _formula(output: str, low: float, high: float) -> str:
    bounded = np.isfinite(low) and np.isfinite(high)
    if output == "scale" and bounded:
        middle, half = (low + high) / 2, (high - low) / 2
        scaled = "tanh({})" if half == 1 else f"{half:g} tanh({{}})"
        return scaled if middle == 0 else f"{middle:g} + {scaled}"
    inner = "tanh({})" if output == "tanh" else "{}"
    if np.isinf(low) and np.isinf(high) or (output == "tanh" and low <= -1 and high >= 1):
        return inner
    return f"clip({inner}, {low:g}, {high:g})"
