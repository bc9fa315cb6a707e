"""Score against steps, of linear policies on MuJoCo, beside published figures.

    python benchmarks/scores.py --tasks envpool/Hopper-v4 --steps 1e6 --seeds 0 1 2 3 4

Trains every task on every seed by its tuned settings, those of the defaults where it has none, and
adds a row a run to the table; rows that are there stand, so the command goes on where it was cut
off.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from learning_rows import add_run_options, learn
from measuring import command

from nesht_jax.run.cli.train import read_command
from nesht_jax.run.config import Config
from nesht_jax.run.names import tuned_config

TASKS = ("Swimmer", "Hopper", "HalfCheetah", "Walker2d", "Ant", "InvertedDoublePendulum")


def main() -> None:
    """Writes the table."""
    options = _options()
    learn(_cases(options), table=options.out, runs=options.runs, episodes=options.episodes)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for task in options.tasks:
            yield settings(task, int(options.steps), seed)


def settings(task: str, steps: int, seed: int) -> tuple[str, Config]:
    """Makes the config of a task, and says what its settings are; v4 has those of v5."""
    tuned = tuned_config(task.replace("-v4", "-v5"))
    words = [tuned.as_posix()] if tuned else []
    given = {"task": task, "steps": steps, "generations": None, "seed": seed}
    config, _ = read_command(words, given)
    return "tuned" if tuned else "defaults", replace(config, out=None)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "scores.csv")
    add = parser.add_argument
    tasks = [f"envpool/{name}-v{version}" for version in (4, 5) for name in TASKS]
    add("--tasks", nargs="+", default=tasks, help="tasks [v4 and v5 of six robots]")
    add("--steps", type=float, default=1e6, help="useful steps of each run [1e6]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
