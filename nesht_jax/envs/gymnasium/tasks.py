"""What Gymnasium has registered, as tasks: names, options, spaces."""

import importlib
import inspect

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from nesht_jax.envs.gymnasium.simulator import MODES, Simulator
from nesht_jax.envs.gymnasium.spaces import action_bounds, misfits
from nesht_jax.envs.simulator import refusals, refuse_unknown
from nesht_jax.envs.suite import TaskOptions, alive_bonus, terminal_bonus
from nesht_jax.types import Task

OWN_OPTIONS = ("vectorization_mode", "scaled", "reset_options", "keys")
"""Options that the suite itself reads; the others are those of the environment."""

_OWNED = ("max_episode_steps", "num_envs", "vector_kwargs", "wrappers")
_MODULES = {"ALE": "ale_py"}


def names() -> list[str]:
    """Lists the ids in Gymnasium's registry, without those that say only that they are gone."""
    return sorted(
        name
        for name, spec in gymnasium.registry.items()
        if not getattr(spec.entry_point, "__name__", "").startswith("_raise")
    )


def resolve(name: str) -> str:
    """Gives the id in ``module:Id-v0``, its module imported so that it can register the id.

    Raises:
        ValueError: if there is no such module, or an id is in a namespace that none has registered.
    """
    module, colon, name = name.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"task gymnasium/{module}:{name} needs the module {module!r}, which registers it: "
                f"{error}; install it or add its folder to PYTHONPATH"
            ) from error
    namespace, slash, _ = name.rpartition("/")
    known = {spec.namespace for spec in gymnasium.registry.values()}
    if slash and namespace not in known:
        module = _MODULES.get(namespace, "my_module")
        raise ValueError(
            f"unknown task 'gymnasium/{name}'; it needs the module that registers it: "
            f"gymnasium/{module}:{name}"
        )
    return name


def make(name: str, options: TaskOptions) -> Task:
    """Makes a task and its first environment, which is the first to play.

    Args:
        name: one of ``names()``.
        options: options of the environment, and four of the suite: ``vectorization_mode``:
            ``"sync"``, the default, steps in this process, ``"async"`` in a process for each
            environment, for those whose steps are slow; ``scaled``: whether a policy sees bytes
            divided by 255, as it does by default; ``reset_options``: options of every reset;
            ``keys``: parts of a ``Dict`` observation that are shown, all by default.

    Raises:
        ValueError: if the environment cannot be made, has no such option, has spaces without a
            fixed number of features, or of scores, or tells of other numbers of names.
    """
    task = f"gymnasium/{name}"
    defaults = _check_options(task, name, options)
    simulator = Simulator(
        name,
        options={key: value for key, value in options.items() if key not in OWN_OPTIONS},
        mode=options.get("vectorization_mode", MODES[0]),
        keys=options.get("keys"),
        reset_options=options.get("reset_options"),
        scaled=options.get("scaled", True),
    )
    acts = _checked_spaces(task, simulator.observation_space, simulator.action_space)
    low, high = action_bounds(acts)
    bonus = alive_bonus(name, (defaults | options).get("healthy_reward"))
    return Task(
        name=task,
        options=options,
        observation_size=simulator.layout.size,
        action_low=low,
        action_high=high,
        discrete=isinstance(acts, spaces.Discrete),
        horizon=gymnasium.registry[name].max_episode_steps,
        image_shape=simulator.layout.image_shape,
        alive_bonus=bonus,
        terminal_bonus=terminal_bonus(name, bonus),
        feature_names=_told(simulator, "feature_names", simulator.layout.size)
        or simulator.layout.names,
        action_names=_told(simulator, "action_names", len(low)),
        simulator=simulator,
    )


def _told(simulator: Simulator, what: str, number: int) -> tuple[str, ...]:
    """Names that an environment tells in its metadata; none if it tells none."""
    names = simulator.metadata.get(what, ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"metadata {what!r} must be a list of names, got {names!r}")
    if names and len(names) != number:
        raise ValueError(f"metadata {what!r} must be {number} names, got {len(names)}")
    return tuple(names)


def _check_options(task: str, name: str, options: TaskOptions) -> TaskOptions:
    """The environment's own options with their defaults."""
    mode = options.get("vectorization_mode", MODES[0])
    if mode not in MODES:
        raise ValueError(
            f"vectorization_mode must be one of {', '.join(MODES)}, got {mode!r}; "
            "other vector environments do not take a seed for each episode"
        )
    if not isinstance(options.get("scaled", True), bool):
        raise ValueError(f"scaled must be true or false, got {options['scaled']!r}")
    if not isinstance(options.get("keys") or [], list | tuple):
        raise ValueError(f"keys must be a list of parts, got {options['keys']!r}")
    if not isinstance(options.get("reset_options") or {}, dict):
        raise ValueError(f"reset_options must be a map, got {options['reset_options']!r}")
    if "num_envs" in options:
        raise ValueError(f"{task} has no option 'num_envs': set num_envs beside the options")
    creator = gymnasium.registry[name].entry_point
    if isinstance(creator, str):
        with refusals(task, {}):
            creator = load_env_creator(creator)
    parameters = list(inspect.signature(creator).parameters.values()) if creator else []
    valid = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    takes_any = list(options) if len(valid) < len(parameters) else []
    known = {*OWN_OPTIONS, "disable_env_checker", *valid, *takes_any} - set(_OWNED)
    refuse_unknown(task, options, sorted(known))
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return defaults | gymnasium.registry[name].kwargs


def _checked_spaces(
    task: str, observes: spaces.Space, acts: spaces.Space
) -> spaces.Box | spaces.Discrete:
    """The action space, if both are of a kind that can be played."""
    unfit = [f"`{path or 'observation'}`: {part}" for path, part in misfits(observes)]
    if unfit:
        parts = observes.spaces.items() if isinstance(observes, spaces.Dict) else ()
        fit = ", ".join(key for key, part in parts if not misfits(part))
        choice = f"show the others by the task option keys: [{fit}], or " if fit else ""
        raise ValueError(
            f"{task} must observe a fixed number of features, which {', '.join(unfit)} has not; "
            f"{choice}wrap it and register that"
        )
    if not isinstance(acts, spaces.Box | spaces.Discrete):
        raise ValueError(
            f"{task} must act in a Box or a Discrete space, got {acts}; "
            "wrap it into one and register that"
        )
    return acts
