"""Whether the quickstart succeeds on every seed, and which inputs it then uses.

    python benchmarks/quickstart.py

Trains the quickstart on every seed and adds a row a run to the table; rows that are there stand, so
the command goes on where it was cut off.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from learning_rows import learn
from measuring import command

from nesht_jax.run.cli.train import read_command


def main() -> None:
    """Writes the table."""
    options = _options()
    base, _ = read_command(["quickstart"], {})
    base = replace(base, out=None)
    if options.steps:
        base = replace(base, steps=options.steps)
    cases = [("quickstart", replace(base, seed=seed)) for seed in options.seeds]
    learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "quickstart.csv")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds [0 1 2 3 4]")
    add("--steps", type=int, help="useful steps of each run; else as many as the quickstart does")
    add("--episodes", type=int, default=100, help="episodes of the final evaluation [100]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
