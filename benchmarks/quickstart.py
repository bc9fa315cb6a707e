"""Whether the quickstart succeeds on every seed, and which inputs it then uses.

    python benchmarks/quickstart.py

Trains the quickstart on every seed in a run folder of its own, going on with what is there, and
evaluates each for fresh episodes. ``first_best_generation`` is the first whose evaluation is as
good as any of the run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
from measuring import Row, Table, command

from nesht_jax.report.statistics import segment_ratio
from nesht_jax.run.cli.train import read_command
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.sweep import sweep
from nesht_jax.run.train import Result


def main() -> None:
    """Writes the table."""
    options = _options()
    base, _ = read_command(["quickstart"], {})
    base = replace(base, generations=options.generations or base.last_generation)
    table = Table(options.out)
    for config, result in sweep([base], seeds=options.seeds, folder=options.runs):
        table.add(measure(config, result, options.episodes))


def measure(config: Config, result: Result, episodes: int) -> Row:
    """Evaluates the end of a run."""
    fresh = evaluate_run(result.folder, episodes=episodes).thresholded
    evaluations = {row.generation: row.evaluation for row in result.rows if row.evaluation}
    means = {number: found.mean for number, found in evaluations.items() if found.mean is not None}
    last = evaluations[config.last_generation]
    weights = sum(leaf.size for leaf in jax.tree.leaves(result.state.params))
    return {
        "seed": config.seed,
        "last_evaluation": last.mean,
        "last_evaluation_error": last.standard_error,
        "return": round(fresh.mean, 1),
        "standard_error": round(fresh.standard_error, 1),
        "episodes": fresh.episodes,
        "segment_ratio": round(segment_ratio(last.segment_norms), 1),
        "first_best_generation": max(means, key=lambda number: means[number]),
        "useful_million_steps": round(sum(row.steps for row in result.rows) * 1e-6, 1),
        "seconds": round(sum(row.seconds for row in result.rows)),
        "kept": round((1 - last.sparsity) * weights),
        "weights": weights,
    }


def _options() -> argparse.Namespace:
    parser = command(__doc__, "quickstart.csv")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs [0 1 2]")
    add("--generations", type=int, help="updates of each run; else as many as the quickstart does")
    add("--episodes", type=int, default=100, help="episodes of the final evaluation [100]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
