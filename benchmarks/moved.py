"""Inputs that change their places half way: what a method finds again.

    python benchmarks/moved.py --methods select_growing --distractors 10 --seeds 0 1 2

A run of half the steps, after which every input is shown at another place, and the other half. All
that a run knows of an input moves instead of the input: the weights, moments and evidence of its
row are another input's from then on. Methods are those of ``study.py``; rows that are there stand.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from learning_rows import add_run_options, kept, measure
from measuring import Row, Table, command, planned, task_name
from study import METHODS, settings

from nesht_jax.run.build import build
from nesht_jax.run.checkpoint import Checkpoints
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.sweep import trained

NAMES = ("task", "distractors", "method", "seed")
"""Columns that name a run."""


def main() -> None:
    """Trains what the table lacks."""
    options = _options()
    table = Table(options.out, kept(options.out))
    done = {tuple(str(row[name]) for name in NAMES) for row in table.rows}
    for named, config in planned(_cases(options)):
        if tuple(str(value) for value in named.values()) not in done:
            table.add(named | _moved(config, options))


def _cases(options: argparse.Namespace) -> Iterator[tuple[Row, Config]]:
    for seed in options.seeds:
        for distractors in options.distractors:
            for method in options.methods:
                config = settings(method, options.task, distractors, int(options.steps))
                values = options.task, distractors, method, seed
                named: Row = dict(zip(NAMES, values, strict=True))
                config = replace(config, seed=seed)
                folder = options.runs / f"{config.folder.name}-{method}-moved"
                yield named, replace(config, out=str(folder))


def _moved(config: Config, options: argparse.Namespace) -> Row:
    assert config.steps is not None
    folder = config.folder
    half = replace(config, steps=config.steps // 2, out=f"{folder}-half")
    if not folder.exists():  # whole or not at all, so that no run is moved twice
        first, beside = measure(half, trained(half), options.episodes), Path(f"{folder}-moving")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(half.folder, beside)
        move_inputs(replace(half, out=str(beside)))
        at_once = evaluate_run(beside, episodes=options.episodes).thresholded.mean
        told = f"{first['return']} {at_once:.1f} {first['true_read']}"
        (beside / "moved.txt").write_text(told, encoding="utf-8")
        beside.rename(folder)
    learned, at_once, read = (folder / "moved.txt").read_text(encoding="utf-8").split()
    last = measure(config, trained(config), options.episodes)
    told = {"return_before": learned, "true_read_before": read, "return_at_once": at_once}
    return told | {name: value for name, value in last.items() if name != "inputs"}


def move_inputs(config: Config) -> None:
    """Shows every input of a linear policy at another place from the newest checkpoint on.

    Instead of the inputs all that is kept of them moves: arrays with an input axis are permuted.
    """
    experiment, folder = build(config), config.folder / "checkpoints"
    old = Checkpoints(folder, config, create=False)
    saved = old.restore(experiment.state)
    old.close()
    size = experiment.task.num_features
    places = np.random.default_rng(0).permutation(size)

    def move(leaf: Any) -> Any:
        return leaf[places] if getattr(leaf, "shape", ())[:1] == (size,) else leaf

    shutil.rmtree(folder)
    new = Checkpoints(folder, config, create=True)
    new.save(jax.tree.map(move, saved.state), steps=saved.steps)
    new.close()


def _options() -> argparse.Namespace:
    parser = command(__doc__, "moved.csv")
    add = parser.add_argument
    add(
        "--task",
        type=task_name,
        default="envpool/HalfCheetah-v5",
        help="task [envpool/HalfCheetah-v5]",
    )
    add("--distractors", type=int, nargs="+", default=[0, 10], help="N of ×N [0 10]")
    methods = list(METHODS)
    add("--methods", nargs="+", default=["select_growing"], choices=methods, help="methods")
    add("--steps", type=float, default=3e6, help="useful steps, of both halves [3e6]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
