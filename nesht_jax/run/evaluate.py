"""How good is a policy: many episodes of one set of weights."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from nesht_jax import normalize
from nesht_jax.contract import Evaluation, HostEvaluate, Params, alike
from nesht_jax.envs import make_evaluate, task_spec
from nesht_jax.envs.task import TaskOptions
from nesht_jax.nesht import State, realised_sparsity
from nesht_jax.policy import Policy, segment_norms
from nesht_jax.run.build import build_algorithm, build_policy, thresholded
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config, read_config


class Score(NamedTuple):
    """Undiscounted returns of some episodes.

    Attributes:
        mean: of the returns.
        standard_error: of the mean.
        low: lower end of the 95 % confidence interval of the mean (Student's t).
        high: its upper end.
        episodes: how many.
        steps: mean length of an episode.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    episodes: int
    steps: float


def score(returns: Float[Any, " episodes"], steps: Int[Any, " episodes"]) -> Score:
    """Mean, standard error and confidence interval of independent returns."""
    returns, steps = np.asarray(returns, np.float64), np.asarray(steps)
    n = len(returns)
    mean = float(returns.mean())
    error = float(returns.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    reach = float(stats.t.ppf(0.975, n - 1)) * error if n > 1 else float("nan")
    return Score(mean, error, mean - reach, mean + reach, n, float(steps.mean()))


Play = Callable[[int | Int[Array, ""], Params, normalize.Moments | None], Evaluation]
"""``(call, params, moments) -> evaluation``: episodes of one set of weights."""


def make_play(
    config: Config,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    task: str | None = None,
    options: TaskOptions | None = None,
) -> Play:
    """What plays the task of a config, or another task; ``options`` go over those of the config.

    Call number ``call`` draws its resets and noise from (seed, call) alone, whatever was called
    before: so an evaluation at some generation is the same in a resumed run.
    """
    room = make_evaluate(
        task or config.task,
        policy,
        num_members=episodes,
        noise=config.noise,
        horizon=config.evaluate_horizon or config.horizon,
        seed=seed,
        options=_options(config, task, options),
    )

    def play(
        call: int | Int[Array, ""], params: Params, moments: normalize.Moments | None
    ) -> Evaluation:
        if isinstance(room, HostEvaluate):
            room.seek(int(call))
        return room(jax.random.fold_in(jax.random.key(seed), call), alike(params), moments)

    return play if isinstance(room, HostEvaluate) else jax.jit(play)


def _options(config: Config, task: str | None, options: TaskOptions | None) -> TaskOptions:
    """Those given, over those of the config where its own task is played."""
    own = config.task_options if task in (None, config.task) else {}
    return own | (options or {})


class Centre(NamedTuple):
    """The thresholded centre H_k(θ) and how it plays.

    Attributes:
        returns: of its episodes.
        steps: their lengths.
        sparsity: fraction of exact zeros.
        segment_norms: see ``policy.segment_norms``.
    """

    returns: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    sparsity: Float[Array, ""]
    segment_norms: Float[Array, " segments"]


def make_evaluate_centre(config: Config, policy: Policy) -> Callable[[State], Centre]:
    """The evaluations of a run; each is a function of the config and the state alone."""
    play = make_play(config, policy, episodes=config.evaluate_episodes, seed=config.seed + 1)

    @jax.jit
    def look(params: Params) -> tuple[Params, Array, Array]:
        params = thresholded(config, params)
        return params, realised_sparsity(params), segment_norms(params, config.noise)

    def evaluate_centre(state: State) -> Centre:
        params, sparsity, norms = look(state.params)
        played = play(state.generation, params, state.moments)
        return Centre(played.fitness, played.steps, sparsity, norms)

    return evaluate_centre


class RunScore(NamedTuple):
    """What a run has learned, evaluated.

    Attributes:
        task: where it was evaluated.
        generation: of the checkpoint.
        thresholded: score of H_k(θ).
        thresholded_sparsity: fraction of exact zeros in H_k(θ).
        centre: score of θ as training left it.
        centre_sparsity: fraction of exact zeros in θ.
    """

    task: str
    generation: int
    thresholded: Score
    thresholded_sparsity: float
    centre: Score
    centre_sparsity: float


def evaluate_run(
    folder: Path,
    *,
    episodes: int,
    task: str | None = None,
    options: TaskOptions | None = None,
    seed: int = 0,
) -> RunScore:
    """Evaluates the newest checkpoint of a run, with and without threshold, on the same resets.

    Args:
        folder: of the run.
        episodes: to play with each.
        task: another task, of the same sizes.
        options: of the task, over those of the run.
        seed: of resets and noise features.

    Raises:
        ValueError: if the run or its checkpoint does not read, or the task has other sizes.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    config = read_config(folder)
    spec = task_spec(config.task, config.task_options)
    if task is not None or options:
        other = task_spec(task or config.task, _options(config, task, options))
        sizes = [(s.observation_size, len(s.action_low)) for s in (spec, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{task or config.task} has (observation, action) sizes {sizes[1]}, but "
                f"{config.task}, where {folder} was trained, has {sizes[0]}"
            )
    policy = build_policy(config, spec)
    _, template = build_algorithm(config, spec, policy)
    with closing(Checkpoints(folder / "checkpoints", create=False)) as checkpoints:
        state = checkpoints.restore(template)
    play = make_play(
        config, policy, episodes=episodes, seed=seed + 2**16, task=task, options=options
    )

    def played(params: Params) -> Score:
        evaluation = play(0, params, state.moments)
        return score(evaluation.fitness, evaluation.steps)

    sparse = thresholded(config, state.params)
    return RunScore(
        task=task or config.task,
        generation=int(state.generation),
        thresholded=played(sparse),
        thresholded_sparsity=float(realised_sparsity(sparse)),
        centre=played(state.params),
        centre_sparsity=float(realised_sparsity(state.params)),
    )
