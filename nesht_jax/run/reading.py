"""What the policy of an experiment reads, under the names of its task."""

import jax
import numpy as np

from nesht_jax.report.reading import Reading
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
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    units = tuple(f"unit {i}" for i in range(first.fan_out))
    numbered = tuple(f"action {i}" for i in range(task.num_actions))
    return Reading(
        sensors=task.feature_names or tuple(f"feature {i}" for i in range(task.observation_size)),
        motors=units if others else task.action_names or numbered,
        weights=leaves[first.kernel],
        biases=leaves.get(f"{first.name}/bias", np.zeros(first.fan_out, np.float32)),
        formulas=() if others else _formulas(config, task),
        units=_units(config, task),
    )


def _units(config: Config, task: Task) -> str:
    """What ``policy.normalization`` makes of a sensor, in words; and what is made of choices."""
    choice = "the highest is played; " if task.discrete else ""
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
