"""NESHT against NES on noisy tasks: return of the thresholded centre, and selectivity.

Trains every (sparsity, seed) through ``nesht_jax.train`` in a run folder of its own, resuming what
is there, evaluates each final centre, and writes one CSV row a run and one a sparsity.

    python benchmarks/selectivity.py configs/envpool/hopper.yaml configs/preset/code-mujoco.yaml
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
from runs import method, read, trained
from table import write

from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run

LAST = 10
"""Evaluations at the end of training that are averaged."""


def main() -> None:
    options = _parse()
    base = replace(read(options.configs), generations=options.generations)
    rows = []
    for seed in range(options.seeds):
        for sparsity in options.sparsities:
            rows.append(measure(base, sparsity, seed, options))
            write(options.out, rows)
            print(rows[-1], flush=True)
    summarise(rows)


def measure(base: Config, sparsity: float, seed: int, options: argparse.Namespace) -> dict:
    """Trains one run, or goes on with it, and evaluates its end."""
    folder = options.runs / f"{options.out.stem}-beta{sparsity}-seed{seed}"
    config, result = trained(base, sparsity=sparsity, seed=seed, folder=folder)
    scores = evaluate_run(folder, episodes=options.episodes)
    evaluations = [row["evaluation"] for row in result.rows if row.get("evaluation")]
    true, *noise = evaluations[-1]["segment_norms"]
    # selectivity of the weights as trained, before the last threshold, compares with NES
    return {
        "task": config.task,
        "noise": config.noise,
        "method": method(sparsity),
        "sparsity_asked": sparsity,
        "seed": seed,
        "generations": config.generations,
        "return": round(scores.thresholded.mean, 1),
        "standard_error": round(scores.thresholded.standard_error, 1),
        "return_unthresholded": round(scores.centre.mean, 1),
        "return_last_evaluations": round(fmean(e["mean"] for e in evaluations[-LAST:]), 1),
        "sparsity_realised": round(scores.thresholded_sparsity, 3),
        "segment_ratio": round(true / np.mean(noise), 2) if np.mean(noise) else float("inf"),
        "segment_ratio_unthresholded": round(_ratio(result.state.params, config.noise), 2),
        "episodes": options.episodes,
        "useful_steps": sum(row.get("steps", 0) for row in result.rows),
        "seconds": round(sum(row.get("seconds", 0.0) for row in result.rows), 1),
    }


def _ratio(params: dict, noise: int) -> float:
    from nesht_jax.policy import segment_norms

    true, *rest = (float(n) for n in segment_norms(params, noise))
    return true / float(np.mean(rest))


def summarise(rows: list[dict]) -> None:
    """Mean over seeds, a line a sparsity."""
    for sparsity in dict.fromkeys(row["sparsity_asked"] for row in rows):
        some = [row for row in rows if row["sparsity_asked"] == sparsity]
        returns = np.array([row["return"] for row in some])
        ratio = np.mean([row["segment_ratio"] for row in some])
        error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else float("nan")
        print(f"β={sparsity}: return {returns.mean():.0f} ± {error:.0f}, segment ratio {ratio:.2f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="YAML files, as for nesht train")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=100, help="of the final evaluation")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/selectivity.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
