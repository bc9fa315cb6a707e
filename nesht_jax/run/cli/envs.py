"""List the tasks: those of one suite, or those whose name holds the words; all without any.

nesht envs hopper        in every suite
nesht envs brax          all of one suite
"""

import argparse
from collections.abc import Callable

from nesht_jax.envs.catalog import REMEDIES, SUITES, Entry, entries, installed, nearest, search
from nesht_jax.run.cli.options import refuse_unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht envs`` takes."""
    parser.add_argument("words", nargs="*", help="suite, or parts of a task's name")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and finds the tasks, in the catalog that comes with the package."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    words = given.words
    if len(words) == 1 and words[0] in SUITES:
        found = [entry for entry in entries() if entry.suite == words[0]]
    else:
        found = search(words)
    if not found:
        names = {entry.name for entry in entries()} | set(SUITES)
        raise ValueError(f"no task holds {' '.join(words)!r}; {nearest(' '.join(words), names)}")
    return lambda: _print(found)


def _print(found: list[Entry]) -> int:
    width = max(len(entry.task) for entry in found)
    for suite, about in SUITES.items():
        tasks = [entry for entry in found if entry.suite == suite]
        if not tasks:
            continue
        remedy = "" if installed(suite) else f"; not installed: {REMEDIES.get(suite, '')}"
        print(f"{suite}: {about}{remedy}")
        for entry in tasks:
            print(f"  {entry.task:{width}}  {_sizes(entry)}".rstrip())
    return 0


def _sizes(entry: Entry) -> str:
    if entry.observation is None:
        return ""
    shown = "x".join(map(str, entry.image)) if entry.image else str(entry.observation)
    kind = "choices" if entry.kind == "discrete" else "numbers"
    limit = f", {entry.horizon} steps" if entry.horizon else ""
    return f"{shown:>9} in, {entry.actions:>2} {kind}{limit}"
