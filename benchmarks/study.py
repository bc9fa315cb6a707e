"""Which inputs matter: methods among irrelevant inputs, at equal environment steps.

    python benchmarks/study.py --tasks envpool/Hopper-v4 --distractors 0 10 --seeds 0 1 2 3 4

Trains every (task, distractors, method, seed) for the same steps and adds a row a run to the table;
rows that are there stand, so the command goes on where it was cut off.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from learning_rows import add_run_options, learn
from measuring import command

from nesht_jax import make_task
from nesht_jax.run.cli.train import read_command
from nesht_jax.run.config import Config

METHODS = {
    "nes": ["select", "nes"],
    "weight_decay": ["select", "nes", {"optimizer": {"weight_decay": 20.0}}],
    "select": ["select"],
    "select_dense": ["select", {"sparsity": {"explore": 1.0}}],
    "rows": ["select", {"sparsity": {"rule": "top_k", "keep": "true inputs"}}],
    "nesht_published": ["code-mujoco"],
    "nes_published": ["code-mujoco", "nes"],
}
"""Settings of each method, merged from left to right: presets, and what differs from them."""


def main() -> None:
    """Writes the table."""
    options = _options()
    cases = list(_cases(options))
    learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for task in options.tasks:
            for distractors in options.distractors:
                for method in options.methods:
                    config = settings(method, task, distractors, int(options.steps))
                    yield method, replace(config, seed=seed)


def settings(method: str, task: str, distractors: int, steps: int) -> Config:
    """Makes the config of a method on a task."""
    words = [word for word in METHODS[method] if isinstance(word, str)]
    changes = [word for word in METHODS[method] if isinstance(word, dict)]
    own = {key: dict(value) for change in changes for key, value in change.items()}
    if own.get("sparsity", {}).get("keep") == "true inputs":
        own["sparsity"]["keep"] = make_task(task).observation_size
    given = own | {"distractors": distractors, "steps": steps, "generations": None}
    given |= {"evaluation": {"every": 20}}
    config, _ = read_command([task, *words], given)
    return config


def _options() -> argparse.Namespace:
    parser = command(__doc__, "study.csv")
    add = parser.add_argument
    add("--tasks", nargs="+", default=["envpool/Hopper-v4"], help="tasks [envpool/Hopper-v4]")
    add("--distractors", type=int, nargs="+", default=[0, 10], help="N of ×N [0 10]")
    methods = list(METHODS)
    add("--methods", nargs="+", default=methods, choices=methods, help="methods [all]")
    add("--steps", type=float, default=1e6, help="useful steps of each run [1e6]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
