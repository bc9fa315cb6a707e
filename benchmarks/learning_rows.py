"""What the scripts about learning share: a row a run, kept from one call to the next."""

import argparse
import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Row, Table, commit

from nesht_jax.run.build import build
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run, projected
from nesht_jax.run.result import Result
from nesht_jax.run.sweep import trained

POINTS = 60
"""Evaluations of a run that its row tells, evenly spaced among all."""

EIGHT_ENVS: dict[str, Any] = {"num_envs": 8, "agent": {"rollout": 256}}
"""PPO in eight environments, whose updates have as many steps as those of its preset, sooner."""

KEY = ("task", "distractors", "kind", "method", "seed")
"""Columns that name a run."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds what every script takes that trains runs and adds a row for each."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds [0 1 2 3 4]")
    add("--episodes", type=int, default=100, help="episodes of the final evaluation [100]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")


def learn(
    cases: Iterable[tuple[str, Config]],
    *,
    table: Path,
    runs: Path,
    episodes: int,
    more: Callable[[Result], Row] = lambda result: {},
) -> list[Row]:
    """Trains what the table lacks, and adds a row a run.

    Args:
        cases: name of the method, and config with its seed, in the order of training.
        table: CSV file; rows that are there stand, whatever made them.
        runs: folder of the run folders, where what was cut off goes on.
        episodes: fresh episodes of the final center.
        more: what else a row tells.
    """
    written = Table(table, kept(table))
    done = {tuple(str(row[name]) for name in KEY) for row in written.rows}
    for method, config in cases:
        named = {
            "task": config.task,
            "distractors": config.distractors,
            "kind": config.distractor_kind,
            "method": method,
            "seed": config.seed,
        }
        if tuple(str(named[name]) for name in KEY) in done:
            continue
        folder = runs / f"{config.folder.name}-{method}"
        config = replace(config, out=str(folder))
        result = trained(config)
        written.add(named | more(result) | measure(config, result, episodes))
    return written.rows


def kept(table: Path) -> list[Row]:
    """Reads the rows of a table, whatever it was measured with."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        file.readline()
        return list(csv.DictReader(file))


def measure(config: Config, result: Result, episodes: int) -> Row:
    """Evaluates the end of a run, and which inputs it then reads."""
    fresh = evaluate_run(result.folder, episodes=episodes).thresholded
    reads = inputs_read(config, result)
    size = len(reads) // (1 + config.distractors)
    return {
        "return": round(fresh.mean, 1),
        "standard_error": round(fresh.standard_error, 1),
        "steps": sum(row.steps for row in result.rows),
        "seconds": round(sum(row.seconds for row in result.rows)),
        "true_inputs": size,
        "true_read": int(reads[:size].sum()),
        "distractors_read": int(reads[size:].sum()),
        "inputs": " ".join(str(i) for i in np.flatnonzero(reads[:size])),
        "curve": curve(result),
        "commit": commit(),
    }


def inputs_read(config: Config, result: Result) -> Any:
    """Tells which inputs the sparse center has a weight on that is not 0."""
    experiment = build(config)
    params, _ = projected(experiment, result.state)
    kernel = params
    for name in experiment.policy.layers[0].kernel.split("/"):
        kernel = kernel[name]
    return np.asarray(kernel).reshape(len(kernel), -1).any(1)


def curve(result: Result) -> str:
    """Writes evaluations as ``steps:return`` with blanks between."""
    steps = np.cumsum([row.steps for row in result.rows])
    points = [
        (int(s), row.evaluation.mean)
        for s, row in zip(steps, result.rows, strict=True)
        if row.evaluation is not None and row.evaluation.mean is not None
    ]
    chosen = np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(int))
    return " ".join(f"{points[i][0]}:{points[i][1]:.0f}" for i in chosen)
