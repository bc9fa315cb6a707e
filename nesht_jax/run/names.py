"""What the words of the command line mean: tasks, shipped configs, and other people's options.

Nothing here imports JAX or a simulator, so that help and a typo answer at once.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Literal, NamedTuple

from nesht_jax.envs import catalog

Format = Literal["numpy", "c", "onnx", "jax", "safetensors"]
"""Formats that a policy is exported to."""

CPU_PREFERENCE = ("envpool", "gymnasium", "mjx", "gymnax", "brax", "playground", "probe")
"""Suites from best to worst where JAX has a CPU only."""

ACCELERATOR_PREFERENCE = ("mjx", "gymnax", "brax", "playground", "envpool", "gymnasium", "probe")
"""Suites from best to worst where JAX has an accelerator."""

# nobody registers tasks with these
_CLOSED = ("envpool", "gymnax", "mjx", "playground", "probe")


class Resolution(NamedTuple):
    """What a task's name means on this machine.

    Attributes:
        task: name for ``make_task``: suite and task.
        others: tasks of the same name in other installed suites, best first.
    """

    task: str
    others: tuple[str, ...] = ()


def resolve_task(given: str, *, accelerator: bool) -> Resolution:
    """Finds the task that a name means, in the best suite that is installed.

    A name with a known suite, or Gymnasium's ``module:Id``, stands as it is: whether there is such
    a task is found when it is made. Only a plain misspelling is refused here.

    Args:
        given: name of a task, with its suite or without; spelling and, if left out, version are
            found.
        accelerator: whether JAX computes on an accelerator.

    Raises:
        ValueError: if no task has this name, and the message names the nearest; or if its suites
            are not installed, and the message names what installs them.
    """
    suite, slash, name = given.partition("/")
    if ":" in suite:
        return Resolution(f"gymnasium/{given}")
    if slash and suite in catalog.SUITES:
        known = ":" in name or catalog.Entry.named(given) is not None
        if not known and suite in _CLOSED and catalog.is_typo(given):
            raise ValueError(catalog.unknown_task(given))
        return Resolution(given)
    matches = catalog.matching(given)
    if not matches:
        raise ValueError(catalog.unknown_task(given))
    preference = ACCELERATOR_PREFERENCE if accelerator else CPU_PREFERENCE
    found = [_newest(suite, matches) for suite in preference if catalog.installed(suite)]
    tasks = [task for task in found if task is not None]
    if not tasks:
        raise ValueError(_not_installed(given, matches))
    return Resolution(tasks[0], tuple(tasks[1:]))


def _newest(suite: str, matches: list[catalog.Entry]) -> str | None:
    own = [entry for entry in matches if entry.suite == suite]
    return max(own, key=lambda entry: entry.version or 0).task if own else None


def _not_installed(given: str, matches: list[catalog.Entry]) -> str:
    tasks = ", ".join(entry.task for entry in matches)
    suites = dict.fromkeys(entry.suite for entry in matches)
    remedies = dict.fromkeys(catalog.REMEDIES.get(s, "pip install nesht-jax") for s in suites)
    return f"{given} is in {tasks}, which is not installed: " + " or ".join(remedies)


@functools.cache
def _shipped() -> dict[str, Path]:
    """Shipped configs by name, as ``envpool/hopper``."""
    spec = importlib.util.find_spec("nesht_jax.configs")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    checkout = Path(__file__).parents[2]
    if not any(place.is_dir() for place in places) and (checkout / "pyproject.toml").is_file():
        places = [checkout / "configs"]
    return {
        path.relative_to(place).with_suffix("").as_posix(): path
        for place in places
        for path in sorted(place.rglob("*.yaml"))
    }


def shipped_configs() -> list[str]:
    """Lists the configs that come with the package, by name: ``preset/paper``, ...."""
    return list(_shipped())


def find_config(word: str) -> Path | None:
    """Finds the shipped config that a word names; None if there is none.

    Args:
        word: ``envpool/hopper``, ``preset/paper`` or ``paper``; a ``configs/`` before it and a
            ``.yaml`` behind it change nothing.
    """
    name = word.removeprefix("configs/").removesuffix(".yaml")
    return _shipped().get(name) or _shipped().get(f"preset/{name}")


def near_config(word: str) -> str | None:
    """Finds the shipped settings of no one task whose name is nearly this word; None without any.

    Args:
        word: what was given, as ``papr`` for ``paper``.
    """
    names = [name.removeprefix("preset/") for name in _shipped()]
    near = catalog.closest(word, [name for name in names if "/" not in name], cutoff=0.75)
    return near[0] if near else None


def tuned_config(task: str) -> Path | None:
    """Finds the shipped config with the tuned settings of a ``suite/name``; None if there is none.

    Its first line is ``task: suite/name``; presets and the quickstart are of no one task.
    """
    return _tuned().get(task)


@functools.cache
def _tuned() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in _shipped().items():
        folder, slash, _ = name.partition("/")
        if slash and folder != "preset":
            with path.open(encoding="utf-8") as file:
                key, _, task = file.readline().partition(":")
            if key == "task":
                found.setdefault(task.strip(), path)
    return found


def synonym(option: str) -> str | None:
    """Finds our name of an option that others, or our older versions, call differently.

    Args:
        option: name as it was given, as ``--lr``, ``num-workers`` or ``optimizer.lr``.
    """
    name = option.lstrip("-").replace("-", "_").lower()
    group, dot, last = name.rpartition(".")
    within = _SYNONYMS.get(last, "") if dot else ""
    return _SYNONYMS.get(name) or (within if within.startswith(f"{group}.") else None)


_NAMES = {
    "task": "env env_id env_name environment gym_id",
    "task_options": "env_kwargs env_args env_options",
    "distractors": "noise distractor noise_features",
    "horizon": "max_steps max_episode_steps max_episode_length episode_length time_limit",
    "num_envs": "slots num_workers n_workers workers n_envs",
    "algorithm.num_members": "members num_members population population_size popsize pop_size npop",
    "algorithm.episodes_per_member": "rollouts episodes num_rollouts n_rollouts",
    "algorithm.mirrored": "mirrored antithetic mirrored_sampling",
    "algorithm.rank": "rank",
    "algorithm.common_random_numbers": "common_random_numbers crn",
    "algorithm.action_noise": "action_noise",
    "algorithm.sigma": "sigma std noise_std noise_stdev sigma_init init_std",
    "algorithm.sigma_per": "sigma_per",
    "algorithm.sigma_decay": "sigma_decay",
    "algorithm.sigma_decay_every": "sigma_decay_every",
    "algorithm.shaping": "shaping fitness_shaping",
    "sparsity.method": "method threshold.method",
    "sparsity.fraction": "sparsity beta threshold threshold.sparsity sparsity.sparsity",
    "sparsity.every": "threshold.every",
    "sparsity.scope": "scope threshold.scope",
    "sparsity.layers": "threshold.leaves threshold.layers sparsity.leaves",
    "sparsity.exempt_bias": "exempt_bias threshold.exempt_bias",
    "sparsity.rule": "rule threshold.rule",
    "sparsity.forget_moments": "mask_moments threshold.mask_moments sparsity.mask_moments",
    "policy.hidden": "hidden layers hidden_sizes hidden_dims hidden_layers net_arch",
    "policy.activation": "activation",
    "policy.convolutions": "convolutions cnn",
    "policy.normalization": "normalization normalize normalise normalize_observations",
    "policy.clip": "clip",
    "optimizer.name": "optimizer optim",
    "optimizer.learning_rate": "lr learning_rate alpha step_size stepsize",
    "optimizer.weight_decay": "weight_decay l2 l2_coeff l2coeff",
    "evaluation.every": "evaluate_every eval_every eval_freq eval_interval",
    "evaluation.episodes": "evaluate_episodes eval_episodes n_eval_episodes num_eval_episodes",
    "evaluation.horizon": "evaluate_horizon eval_horizon",
    "generations": "epochs iterations n_iter num_iterations num_generations n_generations gens",
    "checkpoint_every": "save_every save_freq checkpoint_freq",
    "seed": "random_seed rng_seed",
    "out": "out_dir output output_dir logdir log_dir save_dir run_dir folder",
}
"""Our options and, separated by blanks, what others call them."""

_SYNONYMS = {theirs: ours for ours, names in _NAMES.items() for theirs in names.split()}
