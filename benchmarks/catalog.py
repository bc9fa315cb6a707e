"""Sizes of every task of every suite: writes the catalog that `nesht envs` reads.

    python benchmarks/catalog.py [SUITE ...]

Tasks of the suites that are named, or of all, are made as installed here; the others keep their
rows. Run it where every suite is installed, after a simulator's version has changed.
"""

import argparse
import csv
import warnings

from nesht_jax.envs import catalog
from nesht_jax.envs.tasks import make_task, task_names


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="only these")
    asked = parser.parse_args().suites or list(catalog.SUITES)
    kept = catalog.entries() if catalog.FILE.exists() else ()
    rows = []
    for suite in catalog.SUITES:
        old = [entry for entry in kept if entry.suite == suite]
        rows += [measure(task) for task in task_names(suite)] if suite in asked else old
    with catalog.FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, catalog.Entry._fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(entry.row() for entry in rows)


def measure(task: str) -> catalog.Entry:
    """The entry of a task; without sizes if it cannot be made here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # simulators deprecate their own old versions
            return catalog.Entry.of(make_task(task))
    except ValueError as error:
        print(f"{task} has no sizes: {error}")
        suite, name = task.split("/", 1)
        return catalog.Entry(suite, name)


if __name__ == "__main__":
    main()
