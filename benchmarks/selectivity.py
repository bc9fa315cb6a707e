"""NESHT against NES among distractors: return of the thresholded center, and selectivity.

    python benchmarks/selectivity.py envpool/Hopper-v5 code-mujoco --distractors 5 --generations 100

Trains every (sparsity, seed) in a run folder of its own, going on with what is there, evaluates
each final center, and writes a row a run. Sparsity 0 is NES.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from measuring import Row, Table, command, parse_with_settings, with_fraction

from nesht_jax.policy.policy import segment_norms
from nesht_jax.report.statistics import segment_ratio
from nesht_jax.run.build import build_policy, build_task
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.result import Result
from nesht_jax.run.sweep import sweep

LAST = 10
"""Evaluations at the end of training that are averaged."""


def main() -> None:
    """Writes the table."""
    options, make_config = _options()
    base = make_config()
    bases = [with_fraction(base, fraction) for fraction in options.sparsities]
    table = Table(options.out)
    for config, result in sweep(bases, seeds=options.seeds, folder=options.runs):
        table.add(measure(config, result, options.episodes))
    summarize(table.rows)


def measure(config: Config, result: Result, episodes: int) -> Row:
    """Evaluates the end of a run."""
    scores = evaluate_run(result.folder, episodes=episodes)
    evaluations = [row.evaluation for row in result.rows if row.evaluation]
    means = [e.mean for e in evaluations[-LAST:] if e.mean is not None]
    assert scores.center is not None  # a checkpoint was evaluated
    return {
        "task": config.task,
        "distractors": config.distractors,
        "method": config.method,
        "sparsity_asked": config.sparsity.fraction,
        "seed": config.seed,
        "generations": config.last_generation,
        "return": round(scores.thresholded.mean, 1),
        "standard_error": round(scores.thresholded.standard_error, 1),
        "return_unthresholded": round(scores.center.mean, 1),
        "return_last_evaluations": round(fmean(means), 1) if means else "",
        "sparsity_realized": round(scores.thresholded_sparsity, 3),
        "segment_ratio": round(segment_ratio(evaluations[-1].segment_norms), 2),
        "segment_ratio_unthresholded": round(unthresholded_ratio(config, result.state.params), 2),
        "episodes": episodes,
        "useful_steps": sum(row.steps for row in result.rows),
        "seconds": round(sum(row.seconds for row in result.rows), 1),
    }


def unthresholded_ratio(config: Config, params: Any) -> float:
    """Segment ratio of the weights as trained, before the last threshold: it compares with NES."""
    policy = build_policy(config, build_task(config))
    return segment_ratio(segment_norms(params, policy.layers, config.distractors))


def summarize(rows: list[Row]) -> None:
    """Prints mean and standard error over seeds, a line a sparsity."""
    for fraction in dict.fromkeys(row["sparsity_asked"] for row in rows):
        some = [row for row in rows if row["sparsity_asked"] == fraction]
        returns, ratio = [row["return"] for row in some], fmean(r["segment_ratio"] for r in some)
        error = stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
        print(f"β={fraction}: return {fmean(returns):.0f} ± {error:.0f}, segment ratio {ratio:.2f}")


def _options() -> tuple[argparse.Namespace, Callable[..., Config]]:
    parser = command(__doc__, "selectivity.csv")
    add = parser.add_argument
    add("--sparsities", type=float, nargs="+", default=[0.0, 0.9], help="fractions zeroed [0 0.9]")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs [0 1 2]")
    add("--episodes", type=int, default=100, help="episodes of the final evaluation [100]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    return parse_with_settings(parser)


if __name__ == "__main__":
    main()
