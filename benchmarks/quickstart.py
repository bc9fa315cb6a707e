"""Whether the quickstart succeeds on every seed, and which inputs it then uses.

    python benchmarks/quickstart.py

Trains the quickstart on every seed and adds a row a run to the table; rows that are there stand, so
the command goes on where it was cut off.
"""

import argparse
from dataclasses import replace

from learning_rows import add_run_options, learn
from measuring import command

from nesht_jax.run.settings import make_config


def main() -> None:
    """Writes the table."""
    options = _options()
    base = make_config("quickstart")
    base = replace(base, out=None)
    if options.steps:
        base = replace(base, steps=options.steps)
    cases = [("quickstart", replace(base, seed=seed)) for seed in options.seeds]
    learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "quickstart.csv")
    add = parser.add_argument
    add("--steps", type=int, help="useful steps of each run; else as many as the quickstart does")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
