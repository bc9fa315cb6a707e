"""Atari games from pixels, dense and sparse: scores before and after training, and on its way.

    python benchmarks/atari.py configs/preset/atari-two-cores.yaml --tasks envpool/KungFuMaster-v5

Trains every (game, sparsity, seed) through ``nesht_jax.train`` in a run folder of its own, resuming
what is there. Both ends of a run are evaluated for whole games: the policy that it began with, and
the thresholded centre that it left. Beside the table of runs there are one of their evaluations on
the way, ``*_curves.csv``, and one of interquartile means, ``*_iqm.csv``.

``one_action`` is how often the trained policy takes its commonest action, on frames of random
play, which show little of where it gets to. ``best_constant`` is what a policy that never looks can
score: the most that one action brings if it is always played.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from runs import method, read, trained
from scipy import stats
from table import write

from nesht_jax.contract import Params, alike
from nesht_jax.envs import reference_observations, task_spec
from nesht_jax.policy import Policy
from nesht_jax.run.build import build_algorithm, build_policy, thresholded
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import Score, evaluate_run, make_play, score
from nesht_jax.run.human import human_normalized


def main() -> None:
    options = _parse()
    base = read(options.configs)
    for task in options.tasks:
        normalized(task, 0.0)  # or says that it cannot, before anything is trained
    constants = {}
    for task in options.tasks:
        best = best_constant(replace(base, task=task), options.episodes)
        constants[task] = round(best.mean, 1)
        print(f"{task}: the best single action scores {constants[task]}", flush=True)
    rows, curves = [], []
    for seed in options.seeds:
        for task in options.tasks:
            for sparsity in options.sparsities:
                row, curve = measure(replace(base, task=task), sparsity, seed, options)
                rows.append(row | {"best_constant": constants[task]})
                curves.extend(curve)
                print(row, flush=True)
                write(options.out, rows)
                write(beside(options.out, "curves"), curves)
                write(beside(options.out, "iqm"), interquartile_means(rows))


def measure(
    base: Config, sparsity: float, seed: int, options: argparse.Namespace
) -> tuple[dict, list[dict]]:
    """One run: its ends, and its evaluations."""
    folder = options.runs / f"{base.task.split('/')[1]}-beta{sparsity}-seed{seed}"
    config, result = trained(base, sparsity=sparsity, seed=seed, folder=folder)
    before = untrained(config, options.episodes)
    after = evaluate_run(folder, episodes=options.episodes)
    run = {"task": config.task, "method": method(sparsity), "sparsity": sparsity, "seed": seed}
    row = run | {
        "untrained": round(before.mean, 1),
        "untrained_error": round(before.standard_error, 2),
        "trained": round(after.thresholded.mean, 1),
        "trained_error": round(after.thresholded.standard_error, 2),
        "untrained_human_normalized": normalized(config.task, before.mean),
        "human_normalized": normalized(config.task, after.thresholded.mean),
        "one_action": round(one_action(config, result.state.params), 3),
        "sparsity_realised": round(after.thresholded_sparsity, 3),
        "episodes": options.episodes,
        "generations": config.generations,
        "members": config.members,
        "horizon": config.horizon,
        "frames": sum(row.get("frames", 0) for row in result.rows),
        "seconds": round(sum(row["seconds"] for row in result.rows)),
    }
    return row, [run | point for point in curve_of(result.rows)]


def untrained(config: Config, episodes: int) -> Score:
    """What the policy scores that a run begins with, thresholded as it is in evaluations."""
    spec = task_spec(config.task, config.task_options)
    policy = build_policy(config, spec)
    _, state = build_algorithm(config, spec, policy)
    play = make_play(config, policy, episodes=episodes, seed=2**16)
    played = play(0, thresholded(config, state.params), state.moments)
    return score(played.fitness, played.steps)


def best_constant(config: Config, episodes: int) -> Score:
    """Of the policies that always play the same action, the score of the best."""
    spec = task_spec(config.task, config.task_options)
    scores = np.eye(len(spec.action_low), dtype=np.float32)
    policy = Policy(
        init=lambda key: scores[0],
        apply=lambda scores, moments, observation: scores,
        observes=False,
    )
    play = make_play(config, policy, episodes=episodes, seed=2**16)
    played = (play(0, jnp.asarray(action), None) for action in scores)
    return max(score(evaluation.fitness, evaluation.steps) for evaluation in played)


def one_action(config: Config, params: Params) -> float:
    """Share of the commonest action of the thresholded centre, on 300 frames of random play."""
    frames = reference_observations(
        config.task, number=300, noise=config.noise, seed=2**16, options=config.task_options
    )
    policy = build_policy(config, task_spec(config.task, config.task_options))
    own = policy.prepare(alike(thresholded(config, params)))(0)
    scores = jax.vmap(lambda seen: policy.apply(own, None, seen))(frames)
    return float(np.bincount(np.asarray(scores).argmax(1)).max() / len(frames))


def curve_of(rows: list[dict]) -> list[dict]:
    """The evaluations of a run, with the frames and seconds of training before them."""
    points, frames, seconds = [], 0, 0.0
    for row in rows:
        frames, seconds = frames + row.get("frames", 0), seconds + row["seconds"]
        if evaluation := row.get("evaluation"):
            points.append(
                {
                    "generation": row["generation"],
                    "frames": frames,
                    "seconds": round(seconds),
                    "mean": round(evaluation["mean"], 1),
                    "standard_error": round(evaluation["standard_error"], 2),
                }
            )
    return points


def interquartile_means(rows: list[dict]) -> list[dict]:
    """Of the human-normalised scores of a method, over games and seeds, with a 95 % interval.

    The bootstrap draws seeds anew within each game. Agarwal et al. 2021 (arXiv 2108.13264).
    """
    table = []
    for name, column in (("untrained", "untrained_human_normalized"), ("", "human_normalized")):
        for which in dict.fromkeys(row["method"] for row in rows):
            some = [row for row in rows if row["method"] == which]
            games = [
                [row[column] for row in some if row["task"] == task]
                for task in dict.fromkeys(row["task"] for row in some)
            ]
            low, high = interval(games)
            table.append(
                {
                    "method": f"{which} {name}".strip(),
                    "games": len(games),
                    "runs": len(some),
                    "iqm": round(float(iqm(*games)), 4),
                    "low": round(low, 4),
                    "high": round(high, 4),
                }
            )
    return table


def iqm(*games, axis: int = -1) -> np.ndarray:
    """Mean of the middle half of the scores of all games together."""
    return stats.trim_mean(np.concatenate(games, axis=axis), 0.25, axis=axis)


def interval(games: list[list[float]]) -> tuple[float, float]:
    """95 % interval of the interquartile mean; NaN where a game has one run only."""
    if min(map(len, games)) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(games, iqm, n_resamples=10_000, method="percentile", rng=0)
    return found.confidence_interval.low, found.confidence_interval.high


def normalized(task: str, score: float) -> float:
    """Human-normalised score of a game.

    Raises:
        ValueError: if none is known.
    """
    found = human_normalized(task, score)
    if found is None:
        raise ValueError(f"no scores of a human tester are known of {task}")
    return round(found, 4)


def beside(path: Path, part: str) -> Path:
    return path.with_stem(f"{path.stem}_{part}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="YAML files, as for nesht train")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=20, help="of the evaluations at both ends")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/atari.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
