"""What a task's name alone reaches: `nesht train NAME`, with no other word.

    python benchmarks/by_name.py

Trains every task on every seed and adds a row a run to the table; rows that are there stand, so the
command goes on where it was cut off. A task that has tuned settings is trained with these, as
`nesht train` does, and with the defaults too.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from learning_rows import add_run_options, learn
from measuring import command, planned

from nesht_jax.run.config import Config
from nesht_jax.run.names import tuned_config
from nesht_jax.run.settings import make_config

TASKS = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "LunarLander-v3",
    "BipedalWalker-v3",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Swimmer-v5",
    "Hopper-v5",
    "HalfCheetah-v5",
)


def main() -> None:
    """Writes the table."""
    options = _options()
    cases = planned(_cases(options))
    learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for name in options.tasks:
            for method, config in settings(name):
                yield method, replace(config, seed=seed)


def settings(name: str) -> list[tuple[str, Config]]:
    """Makes the config that a name means; where it is a tuned one, that of the defaults too."""
    meant = make_config(name)
    defaults = ("defaults", Config(task=meant.task))
    return [("tuned", meant), defaults] if tuned_config(meant.task) else [defaults]


def _options() -> argparse.Namespace:
    parser = command(__doc__, "by_name.csv")
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), metavar="NAME", help="tasks [eleven of them]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
