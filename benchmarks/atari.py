"""Atari games from pixels, dense and sparse: scores before and after training, and on its way.

    python benchmarks/atari.py atari-two-cores --tasks envpool/KungFuMaster-v5 --seeds 0 1

Trains every (game, sparsity, seed) in a run folder of its own, going on with what is there. Both
ends of a run are evaluated for whole games: the policy that it began with, and the thresholded
center that it left. Beside the table of runs there are one of their evaluations on the way,
``*_curves.csv``, and one of interquartile means, ``*_iqm.csv``. Sparsity 0 is NES.

``one_action`` is how often the trained policy takes its commonest action, on frames of random
play, which show little of where it gets to. ``best_constant`` is what a policy that never looks can
score: the most that one action brings if it is always played.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Row, Table, command, parse_with_settings, with_fraction, write

from nesht_jax.envs.tasks import reference_observations
from nesht_jax.report import rows as report_rows
from nesht_jax.report.human import human_normalized
from nesht_jax.report.statistics import Score, bootstrap_interval, iqm, score
from nesht_jax.run.build import build, build_task
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run, make_play, projected
from nesht_jax.run.load import load
from nesht_jax.run.result import Result
from nesht_jax.run.sweep import sweep
from nesht_jax.types import Moments, Params, Policy, Task

SEED = 2**16
"""Seed of the games that are played beside training."""


def main() -> None:
    """Writes the three tables."""
    options, make_config = _options()
    games = [make_config(task) for task in options.tasks]
    for game in games:
        normalized(game.task, 0.0)  # or says that it cannot, before anything is trained
    constants = {game.task: best_constant(game, options.episodes) for game in games}
    for task, constant in constants.items():
        print(f"{task}: the best single action scores {constant:.1f}", flush=True)
    table, curves = Table(options.out), []
    bases = [with_fraction(game, fraction) for game in games for fraction in options.sparsities]
    for config, result in sweep(bases, seeds=options.seeds, folder=options.runs):
        row = measure(config, result, options.episodes)
        table.add(row | {"best_constant": round(constants[config.task], 1)})
        curves += curve_of(config, result.rows)
        write(beside(options.out, "curves"), curves)
        write(beside(options.out, "iqm"), interquartile_means(table.rows))


def measure(config: Config, result: Result, episodes: int) -> Row:
    """Evaluates both ends of a run."""
    before = untrained(config, episodes)
    after = evaluate_run(result.folder, episodes=episodes)
    return run_of(config) | {
        "untrained": round(before.mean, 1),
        "untrained_error": round(before.standard_error, 2),
        "trained": round(after.thresholded.mean, 1),
        "trained_error": round(after.thresholded.standard_error, 2),
        "untrained_human_normalized": normalized(config.task, before.mean),
        "human_normalized": normalized(config.task, after.thresholded.mean),
        "one_action": round(one_action(result.folder), 3),
        "sparsity_realized": round(after.thresholded_sparsity, 3),
        "episodes": episodes,
        "generations": config.last_generation,
        "num_members": config.algorithm.num_members,
        "horizon": config.horizon,
        "frames": sum(row.frames or 0 for row in result.rows),
        "seconds": round(sum(row.seconds for row in result.rows)),
    }


def run_of(config: Config) -> Row:
    """Columns that tell which run a row is of."""
    return {
        "task": config.task,
        "method": config.method,
        "sparsity": config.sparsity.fraction,
        "seed": config.seed,
    }


def untrained(config: Config, episodes: int) -> Score:
    """Scores the policy that a run begins with, thresholded as it is in evaluations."""
    experiment = build(config)
    params, _ = projected(experiment, experiment.state)
    moments = experiment.state.moments
    (found,) = scores(experiment.task, experiment.policy, [params], moments, config, episodes)
    return found


def best_constant(config: Config, episodes: int) -> float:
    """Of the policies that always play the same action, the mean score of the best."""
    task = build_task(config)
    actions = list(jnp.eye(task.num_actions))
    policy = Policy(init=lambda key: actions[0], apply=lambda params, moments, shown: params)
    return max(found.mean for found in scores(task, policy, actions, None, config, episodes))


def scores(
    task: Task,
    policy: Policy,
    params: list[Params],
    moments: Moments | None,
    config: Config,
    episodes: int,
) -> list[Score]:
    """Scores whole games of each of several params, from the same resets."""
    if config.evaluation.horizon is not None:
        task = dataclasses.replace(task, horizon=config.evaluation.horizon)
    play, close = make_play(task, policy, episodes=episodes, seed=SEED, num_envs=config.num_envs)
    played = (play(0, one, moments) for one in params)
    found = [score(evaluation.fitness, evaluation.steps) for evaluation in played]
    close()
    return found


def one_action(folder: Path) -> float:
    """Share of the commonest action of a trained policy, on 300 frames of random play."""
    policy = load(folder)
    frames = jnp.asarray(reference_observations(policy.task, number=300, seed=SEED))
    actions = np.asarray(jax.vmap(policy)(frames))
    return float(np.bincount(actions).max() / len(frames))


def curve_of(config: Config, rows: list[report_rows.Row]) -> list[Row]:
    """The evaluations of a run, with the frames and seconds of training before them."""
    points, frames, seconds = [], 0, 0.0
    for row in rows:
        frames, seconds = frames + (row.frames or 0), seconds + row.seconds
        if row.evaluation is None or row.evaluation.mean is None:
            continue
        points.append(
            run_of(config)
            | {
                "generation": row.generation,
                "frames": frames,
                "seconds": round(seconds),
                "mean": round(row.evaluation.mean, 1),
                "standard_error": round(row.evaluation.standard_error or float("nan"), 2),
            }
        )
    return points


def interquartile_means(rows: list[Row]) -> list[Row]:
    """Interquartile means of the human-normalized scores of each method, over games and seeds."""
    table = []
    for name, column in (("untrained", "untrained_human_normalized"), ("", "human_normalized")):
        for method in dict.fromkeys(row["method"] for row in rows):
            some = [row for row in rows if row["method"] == method]
            games = [
                [row[column] for row in some if row["task"] == task]
                for task in dict.fromkeys(row["task"] for row in some)
            ]
            low, high = bootstrap_interval(games)
            table.append(
                {
                    "method": f"{method} {name}".strip(),
                    "games": len(games),
                    "runs": len(some),
                    "iqm": round(float(iqm(*games)), 4),
                    "low": round(low, 4),
                    "high": round(high, 4),
                }
            )
    return table


def normalized(task: str, score: float) -> float:
    """Human-normalized score of a game; ends the script if no human's score is known."""
    found = human_normalized(task, score)
    if found is None:
        raise SystemExit(f"no scores of a human tester are known of {task}")
    return round(found, 4)


def beside(path: Path, part: str) -> Path:
    """The file of a further table."""
    return path.with_stem(f"{path.stem}_{part}")


def _options() -> tuple[argparse.Namespace, Callable[..., Config]]:
    parser = command(__doc__, "atari.csv")
    add = parser.add_argument
    add("--tasks", nargs="+", required=True, help="games, as envpool/Pong-v5")
    add("--sparsities", type=float, nargs="+", default=[0.0, 0.9], help="fractions zeroed [0 0.9]")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs [0 1 2]")
    add("--episodes", type=int, default=20, help="games of the evaluations at both ends [20]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    return parse_with_settings(parser)


if __name__ == "__main__":
    main()
