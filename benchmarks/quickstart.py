"""Whether the quickstart succeeds on every seed, and which inputs it then uses.

    python benchmarks/quickstart.py

Trains the quickstart on every seed and adds a row a run to the table; rows that are there stand, so
the command goes on where it was cut off.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from learning_rows import add_run_options, learn
from measuring import command, planned

from nesht_jax.run.config import Config
from nesht_jax.run.settings import make_config


def main() -> None:
    """Writes the table."""
    options = _options()
    cases = planned(_cases(options))
    learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    base = replace(make_config("quickstart"), out=None)
    if options.steps is not None:
        base = replace(base, steps=options.steps)
    for seed in options.seeds:
        yield "quickstart", replace(base, seed=seed)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "quickstart.csv")
    add = parser.add_argument
    add("--steps", type=int, help="useful steps of each run; else as many as the quickstart does")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
