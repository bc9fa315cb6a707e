"""Tasks by name: from a name to one value, and from that value to what plays it."""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import warnings
from typing import cast, get_args

import numpy as np
from jaxtyping import Float

from nesht_jax.envs import catalog
from nesht_jax.envs.alive_bonus import without_alive_bonus
from nesht_jax.envs.host_distractors import HostDistractors
from nesht_jax.envs.rollout import make_pure_evaluate
from nesht_jax.envs.sensors import names_of
from nesht_jax.envs.suite import Environment, Stage, Suite, TaskOptions, VectorEnv
from nesht_jax.types import DistractorKind, Evaluate, Policy, Task


def task_names(suite: str) -> list[str]:
    """Lists every task of one suite, as ``suite/name``."""
    return [f"{suite}/{name}" for name in _suite(suite).names()]


def make_task(
    name: str,
    *,
    distractors: int = 0,
    distractor_kind: DistractorKind | str = "normal",
    horizon: int | None = None,
    options: TaskOptions | None = None,
) -> Task:
    """Makes a task: its sizes, its bounds and the simulator behind it.

    Args:
        name: ``"mjx/hopper"``, ``"envpool/Hopper-v5"``, ``"gymnasium/my_module:Mine-v0"``, ....
        distractors: N; after the true observation come N times as many irrelevant features.
        distractor_kind: how they behave. ``"normal"``: N(0, 1), fresh at every step, or uniform
            bytes where the task shows bytes, which has no other kind. ``"scaled"``: of standard
            deviation 10. ``"slow"``: N(0, 1) that change within 20 steps. ``"driven"``: components
            of the last action, one after another, plus N(0, 1); of continuous actions. Of suites on
            the host also ``"marginal"``: each feature a value that its true twin shows at some step
            of random play, drawn anew; and ``"replayed"``: whole observations of other episodes of
            random play, step by step.
        horizon: steps after which an episode is cut; the task's own if None.
        options: options of the simulator behind the suite, by its own names.

    Raises:
        ValueError: if the task is unknown, and the message names the nearest; if the simulator
            refuses an option; or if its package is missing, and the message names what installs it.
    """
    if distractors < 0:
        raise ValueError(f"distractors must not be negative, got {distractors}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, or None for the task's own, got {horizon}")
    suite_name, short = _parts(name)
    options = dict(options or {})
    if suite_name == "envpool" and not catalog.installed("envpool"):
        suite_name, options = _without_envpool(short, options)
    suite = _suite(suite_name)
    resolved = suite.resolve(short)
    if resolved not in suite.names():
        raise ValueError(catalog.unknown_task(f"{suite_name}/{short}"))
    made = suite.make(resolved, options)
    if made.horizon is not None and made.horizon < 1:
        raise ValueError(f"{name}: its options cut episodes after {made.horizon} steps")
    kind = _checked_kind(made, suite, distractor_kind)
    known = names_of(short, num_features=made.observation_size, num_actions=made.num_actions)
    return dataclasses.replace(
        made,
        name=f"{suite_name}/{short}",  # with its module, so that it makes the task again
        distractors=distractors,
        distractor_kind=kind,
        horizon=horizon or made.horizon,
        feature_names=made.feature_names or known.features,
        action_names=made.action_names or known.actions,
    )


def _checked_kind(task: Task, suite: Suite, kind: str) -> DistractorKind:
    kinds = get_args(DistractorKind)
    if kind not in kinds:
        raise ValueError(f"distractor_kind must be one of {', '.join(kinds)}, got {kind!r}")
    if kind == "driven" and task.discrete:
        raise ValueError(f"distractor_kind driven is of actions that are not a choice: {task.name}")
    if kind in ("marginal", "replayed") and suite.reference_observations is None:
        raise ValueError(
            f"distractor_kind {kind} needs random play, which {task.name} has not; envpool/* and "
            "gymnasium/* have it"
        )
    if kind != "normal" and task.image_shape is not None:
        raise ValueError(f"distractor_kind {kind} is of features, and {task.name} shows images")
    return cast(DistractorKind, kind)


def make_evaluate(
    task: Task,
    policy: Policy,
    *,
    num_members: int,
    episodes_per_member: int = 1,
    action_noise: float = 0.0,
    common_random_numbers: bool = False,
    alive_bonus: bool = True,
    fall_cost: int = 1,
    num_envs: int | None = None,
    seed: int = 0,
) -> Evaluate:
    """Makes what plays the episodes of a population on a task.

    Args:
        task: a value of ``make_task``.
        policy: a policy made for this task, or one for a task of the same sizes.
        num_members: number m of members.
        episodes_per_member: episodes of each member; fitness is the mean of their returns.
        action_noise: standard deviation of Gaussian noise on every action.
        common_random_numbers: whether members 2j and 2j + 1, a mirrored pair, share reset states.
        alive_bonus: whether fitness holds what the task pays for being alive. Without it each step
            costs ``task.alive_bonus``, so that a member that stands still earns nothing.
        fall_cost: most that a fall costs then, in alive bonuses: a fall in step t costs those of
            the steps t to ``fall_cost``, and at least one.
        num_envs: environments stepped at once; the suite's own choice if None. ``envpool`` has one
            for every episode and takes no other number.
        seed: seed of simulators whose random state no key can give (envpool).

    Raises:
        ValueError: if the task has no horizon; if ``num_envs`` is given to envpool; if actions are
            both drawn from scores and noisy; if ``num_members``, ``episodes_per_member`` or
            ``fall_cost`` is below 1.
    """
    if task.horizon is None:
        raise ValueError(
            f"{task.name} has no time limit of its own: set horizon, the steps after which an "
            "episode is cut"
        )
    if action_noise and policy.stochastic:
        raise ValueError("actions are drawn from scores already: action_noise must be 0")
    counts = {"num_members": num_members, "episodes_per_member": episodes_per_member}
    for name, count in (counts | {"fall_cost": fall_cost}).items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    rules = {
        **counts,
        "action_noise": action_noise,
        "common_random_numbers": common_random_numbers,
        "num_envs": num_envs,
    }
    host_evaluate = suite_of(task).host_evaluate
    if host_evaluate is None:
        evaluate = make_pure_evaluate(task, policy, **rules)
    else:
        evaluate = host_evaluate(task, policy, seed=seed, **rules)
    if alive_bonus or not task.alive_bonus:
        return evaluate
    return without_alive_bonus(
        evaluate,
        task.alive_bonus / episodes_per_member,
        task.terminal_bonus / episodes_per_member,
        fall_cost,
    )


def make_environment(task: Task) -> Environment:
    """Gives the simulator of a task in JAX, unbatched, as pure ``reset`` and ``step``.

    Raises:
        ValueError: if the task's suite steps a simulator outside JAX: see ``make_vector``.
    """
    if suite_of(task).host_evaluate is not None:
        raise ValueError(f"{task.name} steps outside JAX: make_vector(task, num_envs=...) steps it")
    return task.simulator


def make_vector(task: Task, *, num_envs: int, seed: int = 0) -> VectorEnv:
    """Makes many environments of a host simulator, to be stepped outside an ``Evaluate``.

    Raises:
        ValueError: if the task's suite is written in JAX: see ``make_environment``.
    """
    vector = suite_of(task).vector
    if vector is None:
        raise ValueError(f"{task.name} is written in JAX: vmap the step of make_environment(task)")
    return vector(task, num_envs, seed)


def make_distractors(task: Task, *, num_envs: int) -> HostDistractors | None:
    """Makes what draws the distractors of a task stepped outside JAX; None if it has none.

    Args:
        task: task of ``make_vector``.
        num_envs: number of environments, a row each.

    Raises:
        ValueError: if the task shows bytes, and its distractors are of another kind than "normal".
    """
    make = suite_of(task).distractors
    return make(task, num_envs) if task.distractors and make is not None else None


def make_stage(task: Task, *, seed: int = 0) -> tuple[Stage, Task]:
    """Makes one environment of a task that draws pictures, or of Gymnasium's task of its name.

    Returns:
        The environment, and the task that it plays.

    Raises:
        ValueError: if nothing draws the task, here or anywhere.
    """
    stage = suite_of(task).stage(task, seed)
    if stage is not None:
        return stage, task
    suite_name, short = _parts(task.name)
    twins = [e for e in catalog.matching(short) if e.suite == "gymnasium"]
    if suite_name not in ("envpool", "mjx") or not twins:
        raise ValueError(
            f"nothing draws {task.name}: drawn are gymnasium/*, games whose policy sees pictures, "
            "and what Gymnasium has too of envpool/* and mjx/*"
        )
    # of EnvPool's options Gymnasium has those of the task, but not those of the pool
    options = {name: value for name, value in task.options.items() if name != "num_threads"}
    twin = make_task(
        max(twins, key=lambda entry: entry.version or 0).task,
        distractors=task.distractors,
        distractor_kind=task.distractor_kind,
        horizon=task.horizon,
        options={} if suite_name == "mjx" else options,
    )
    stage = suite_of(twin).stage(twin, seed)
    assert stage is not None  # Gymnasium's suite draws every task of its own
    return stage, twin


def reference_observations(
    task: Task, *, number: int, seed: int
) -> Float[np.ndarray, "number features"]:
    """Gathers what policies would see if they acted at random, for virtual batch normalization.

    Raises:
        ValueError: if the task's suite has no such observations.
    """
    observations = suite_of(task).reference_observations
    if observations is None:
        raise ValueError(
            f"virtual batch normalization needs reference observations, which {task.name} has not; "
            "envpool/* and gymnasium/* have them"
        )
    return observations(task, number, seed)


def suite_of(task: Task) -> Suite:
    """Gives the suite that a task was made by."""
    return _suite(task.name.partition("/")[0])


def _parts(name: str) -> tuple[str, str]:
    suite, slash, short = name.partition("/")
    if not slash or suite not in catalog.SUITES:
        raise ValueError(catalog.unknown_task(name))
    return suite, short


def _suite(name: str) -> Suite:
    if name not in catalog.SUITES:
        raise ValueError(f"no suite {name!r}; {catalog.nearest(name, catalog.SUITES)}")
    try:
        # MJX prints on import that it has no warp, which is no news and would spoil JSON output
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(f"nesht_jax.envs.{name}").SUITE
    except ModuleNotFoundError as error:
        raise ValueError(
            f"suite {name!r} needs the package {error.name!r}: "
            f"{catalog.REMEDIES.get(name, 'pip install nesht-jax')}"
        ) from error


def _without_envpool(short: str, options: TaskOptions) -> tuple[str, TaskOptions]:
    """Gymnasium's own tasks in place of envpool's of the same names."""
    twin = catalog.Entry.named(f"gymnasium/{short}")
    if twin is None:
        raise ValueError(f"envpool/{short} needs envpool: {catalog.REMEDIES['envpool']}")
    if "num_threads" in options:
        raise ValueError(
            f"num_threads is an option of envpool, which is not installed: "
            f"{catalog.REMEDIES['envpool']}, or leave it out"
        )
    warnings.warn(
        f"envpool is not installed, so gymnasium/{short} plays instead of envpool/{short}; "
        f"envpool is faster: {catalog.REMEDIES['envpool']}",
        stacklevel=1,  # one place: Python says it once
    )
    return "gymnasium", options
