"""How good is a policy: many episodes of one set of weights."""

import dataclasses
import math
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from nesht_jax.envs.suite import Environment, TaskOptions
from nesht_jax.envs.tasks import make_evaluate, suite_of
from nesht_jax.policy.observation_noise import with_observation_noise
from nesht_jax.policy.policy import segment_norms
from nesht_jax.report.reading import Reading
from nesht_jax.report.statistics import Score, score
from nesht_jax.run import processes
from nesht_jax.run.agent import AgentRunState, RunState
from nesht_jax.run.ambient import pinned
from nesht_jax.run.build import (
    Experiment,
    Given,
    Stream,
    Values,
    build,
    build_task,
    given,
    stream,
    with_values,
)
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config
from nesht_jax.run.policies import NAME as POLICIES
from nesht_jax.run.policies import Learned, Which, read_policy
from nesht_jax.run.reading import reading
from nesht_jax.run.yaml import read_config
from nesht_jax.shares import make_mesh, shared
from nesht_jax.sparse.top_k import zero_dead
from nesht_jax.types import (
    Evaluation,
    HostEvaluate,
    Moments,
    Params,
    Policy,
    Task,
    center_of,
    mask_of,
    replicate,
    sparsity_of,
)

Play = Callable[..., Evaluation]
"""``(call, params, moments, root=None) -> evaluation``: episodes of one set of weights, a member
each; ``root`` is a key in place of that of the seed."""


def make_play(
    task: Task,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    num_envs: int | None = None,
    shares: int = 1,
) -> tuple[Play, Callable[[], None]]:
    """Makes what plays one policy on a task, and what frees its simulators.

    Call number ``call`` draws its resets and distractors from (seed, call) alone, whatever was
    called before: so an evaluation at some generation is the same in a resumed run. Of a suite in
    JAX the episodes are laid over the devices, if they are cut into so many shares.
    """
    in_shares = shares > 1 and not episodes % shares and suite_of(task).host_evaluate is None
    parts = shares if in_shares else 1
    rules = {"seed": seed, "num_envs": num_envs}
    evaluate = make_evaluate(task, policy, num_members=episodes // parts, **rules)
    if in_shares:
        mesh = make_mesh(parts, processes.devices_of_all())
        evaluate = shared(evaluate, mesh=mesh, num_members=episodes, shares=parts)
    own_root = jax.random.key(seed, impl="threefry2x32")

    def play(
        call: int | Int[Array, ""],
        params: Params,
        moments: Moments | None,
        root: Key[Array, ""] | None = None,
    ) -> Evaluation:
        root = own_root if root is None else root
        if isinstance(evaluate, HostEvaluate):
            evaluate.seek(int(call))
        return evaluate(jax.random.fold_in(root, call), replicate(params), moments)

    if isinstance(evaluate, HostEvaluate):
        return play, evaluate.close
    return jax.jit(play), lambda: None


EvaluateCenter = Callable[..., "CenterEvaluation"]
"""See ``make_evaluate_center``."""


class CenterEvaluation(NamedTuple):
    """How the center plays, as sparse as the method makes it.

    Attributes:
        returns: return of each episode.
        steps: length of each episode in environment steps.
        sparsity: fraction of weights that do not live.
        segment_norms: see ``policy.segment_norms``.
    """

    returns: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    sparsity: Float[Array, ""]
    segment_norms: Float[Array, " segments"]


def evaluation_task(config: Config, task: Task) -> Task:
    """Gives the task with the horizon of evaluations."""
    horizon = config.evaluation.horizon
    return task if horizon is None else dataclasses.replace(task, horizon=horizon)


def make_evaluate_center(
    config: Config, experiment: Experiment
) -> tuple[EvaluateCenter, Callable[[], None]]:
    """Makes the evaluations of a run, and what frees their simulators.

    Each evaluation is a function of the config and the state alone.

    Returns:
        ``(state, given=None) -> evaluation``, with ``build.given`` of another config where its run
        shares the program; and what frees.
    """
    task = evaluation_task(config, experiment.task)
    play, close = make_play(
        task,
        experiment.policy,
        episodes=config.evaluation.episodes,
        seed=stream(config.seed, Stream.EVALUATION),
        num_envs=config.num_evaluation_envs,
        shares=config.shares or 1,
    )

    def look(state: RunState, values: Values) -> tuple[Params, Array, Array]:
        params, sparsity = projected(with_values(experiment, values), state)
        return params, sparsity, segment_norms(params, experiment.policy.layers, task.distractors)

    # of runs side by side, which are in JAX, one after another, to the bits of the run alone; not
    # elsewhere, as JAX never forgets such a function, its programs and what they refer to
    in_jax = isinstance(task.simulator, Environment)
    look = jax.jit(jax.custom_batching.sequential_vmap(look) if in_jax else look)
    own = given(config)

    def evaluate_center(state: RunState, told: Given | None = None) -> CenterEvaluation:
        root, values = told or own
        params, sparsity, norms = look(state, values)
        played = play(state.generation, params, state.moments, root)
        return CenterEvaluation(played.fitness, played.steps, sparsity, norms)

    return evaluate_center, close


def projected(experiment: Experiment, state: RunState) -> tuple[Params, Float[Array, ""]]:
    """The policy's params, as sparse as the method makes them, and their sparsity by the mask."""
    params, mask = _center(state)
    projection = experiment.projection
    if projection is not None:
        cut = projection.mask(params)
        as_it_is = params, mask
        params, mask = jax.tree.map(
            partial(jnp.where, experiment.projects(state.generation)),
            (zero_dead(params, cut), cut),
            as_it_is,
        )
    return played(experiment, state, params, mask)


def _center(state: RunState) -> tuple[Params, Params | None]:
    """The center of a search, and its mask."""
    params, optimizer = state.params, state.optimizer
    return center_of(params, optimizer), mask_of(optimizer, params)


def played(
    experiment: Experiment, state: RunState, weights: Params, mask: Params | None
) -> tuple[Params, Float[Array, ""]]:
    """What a policy takes of these weights, and the sparsity of it.

    Args:
        experiment: experiment that the weights are of.
        state: state whose architecture is played.
        weights: weights, as ``state.params``.
        mask: which of them live; None: all.
    """
    if experiment.search is None:
        return weights, sparsity_of(mask)
    structure, controller = experiment.search
    architecture = controller.best(state.search)
    if mask is None:
        mask = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), weights)
    living = structure.living(architecture, weights, mask)
    made = structure.materialize(architecture, weights)
    # a closed gate leaves a number, mostly near 0; what says which function a unit has is no weight
    return made | zero_dead({name: made[name] for name in living}, living), sparsity_of(living)


class RunScore(NamedTuple):
    """What a run has learned, evaluated.

    Attributes:
        task: task of the evaluation.
        generation: generation of the policy.
        thresholded: score of H_k(θ); of an agent, of its policy.
        thresholded_sparsity: fraction of weights that do not live in H_k(θ).
        center: score of θ as training left it; None of an agent, and of an evaluation, which keeps
            H_k(θ) alone.
        center_sparsity: fraction of weights that do not live in θ; likewise.
        reading: what the policy reads by H_k(θ); None of images.
    """

    task: str
    generation: int
    thresholded: Score
    thresholded_sparsity: float
    center: Score | None = None
    center_sparsity: float | None = None
    reading: Reading | None = None


@pinned()
def restore(folder: Path, *, trust: bool = False) -> tuple[Config, Experiment]:
    """Reads a run folder: its config, and its experiment at the newest checkpoint.

    Args:
        folder: run folder.
        trust: see ``read_config``.

    Raises:
        ValueError: if the run or its checkpoint does not read, or it is not trusted.
    """
    config = read_config(folder, trust=trust)
    experiment = build(config)
    with closing(Checkpoints(folder / "checkpoints", config, create=False)) as checkpoints:
        return config, experiment._replace(state=checkpoints.restore(experiment.state).state)


def learned(
    folder: Path, generation: Which | None = None, *, trust: bool = False
) -> tuple[Config, Experiment, Learned]:
    """Reads what a run has learned, as sparse as its method makes it.

    Args:
        folder: run folder.
        generation: evaluation that it had learned it at; None: the newest checkpoint or, of a run
            without one, as those of the zoo, the best evaluation.
        trust: see ``read_config``.

    Returns:
        Config and experiment of the run, and the policy.

    Raises:
        ValueError: if the run does not read, is not trusted, or keeps no such policy.
    """
    has_checkpoint = (folder / "checkpoints").is_dir() or not (folder / POLICIES).is_file()
    if generation is None and has_checkpoint:
        config, experiment = restore(folder, trust=trust)
        state = experiment.state
        params, sparsity = projected(experiment, state)
        at = Learned(int(state.generation), float(sparsity), params, state.moments, state)
        return config, experiment, at
    config = read_config(folder, trust=trust)
    experiment = build(config)
    which = "best" if generation is None else generation
    params, _ = projected(experiment, experiment.state)
    like = params, experiment.state.moments
    return config, experiment, read_policy(folder, which, *like)


@pinned()
def evaluate_run(
    folder: Path,
    *,
    episodes: int,
    generation: Which | None = None,
    task: str | None = None,
    options: TaskOptions | None = None,
    observation_noise: float = 0.0,
    seed: int = 0,
    trust: bool = False,
) -> RunScore:
    """Evaluates what a run has learned, with and without threshold, on the same resets.

    Args:
        folder: run folder.
        episodes: number of episodes to play with each.
        generation: see ``learned``; the policy of an evaluation is played with threshold alone.
        task: another task, of the same sizes and kind of actions.
        options: options of the task, over those of the run.
        observation_noise: standard deviation of Gaussian noise on every feature that the policy
            sees, in units of the feature's own in play without noise.
        seed: seed of resets and distractors.
        trust: see ``read_config``.

    Raises:
        ValueError: if the run or its policy does not read, it is not trusted, or the task does not
            fit.
    """
    if not 1 <= episodes < 2**31:
        rule = "at least 1" if episodes < 1 else "below 2^31"
        raise ValueError(f"episodes must be {rule}, got {episodes}")
    if not 0 <= observation_noise < math.inf:
        raise ValueError(
            f"observation_noise must be finite and at least 0, got {observation_noise}"
        )
    config, experiment, at = learned(folder, generation, trust=trust)
    played_on = experiment.task
    if task is not None or options:
        own = config.task_options if task in (None, config.task) else {}
        other = dataclasses.replace(
            config, task=task or config.task, task_options=own | (options or {})
        )
        played_on = build_task(other)
        check_fits(experiment.task, played_on, folder)
    played_on = evaluation_task(config, played_on)
    rules = {
        "episodes": episodes,
        "seed": stream(seed, Stream.FINAL),
        "num_envs": config.num_evaluation_envs,
    }
    policy = experiment.policy
    if observation_noise:
        unit = _deviations(played_on, policy, at, **rules)
        key = jax.random.key(stream(seed, Stream.NOISE), impl="threefry2x32")
        policy = with_observation_noise(policy, observation_noise, unit, key)
    play, close = make_play(played_on, policy, **rules)

    def scored(params: Params) -> Score:
        evaluation = play(0, params, at.moments)
        return score(evaluation.fitness, evaluation.steps)

    try:
        found = RunScore(
            task=played_on.name,
            generation=at.generation,
            thresholded=scored(at.params),
            thresholded_sparsity=at.sparsity,
            reading=reading(config, experiment.task, experiment.policy, at.params),
        )
        if (state := at.state) is None or isinstance(state, AgentRunState):
            return found
        params, sparsity = played(experiment, state, *_center(state))
        return found._replace(center=scored(params), center_sparsity=float(sparsity))
    finally:
        close()


def _deviations(task: Task, policy: Policy, at: Learned, **rules: Any) -> Float[Array, " o"]:
    """Standard deviation of every feature while a policy plays."""
    play, close = make_play(task, policy._replace(uses_moments=True), **rules)
    try:
        observed = play(0, at.params, at.moments).observed
    finally:
        close()
    assert observed is not None  # gathered, as the policy asks for it
    return jnp.sqrt(observed.deviation / jnp.maximum(observed.number, 1))


def check_fits(trained: Task, other: Task, folder: Path) -> None:
    """Refuses a task whose observations or actions are not those of the training.

    Raises:
        ValueError: naming both tasks and what differs.
    """
    sizes = [(t.observation_size, t.num_actions) for t in (trained, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{other.name} has (observation, action) sizes {sizes[1]}, but {trained.name}, where "
            f"{folder} was trained, has {sizes[0]}"
        )
    if trained.discrete != other.discrete:
        kinds = ["choices" if t.discrete else "numbers" for t in (trained, other)]
        raise ValueError(
            f"{other.name} takes {kinds[1]} as actions, but {trained.name}, where {folder} was "
            f"trained, takes {kinds[0]}"
        )
