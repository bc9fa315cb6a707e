"""List the trained policies that come with the package.

nesht eval zoo/hopper      play one on fresh episodes
nesht report zoo/hopper    what it reads, and how it learned: hopper_report.html
nesht render zoo/hopper    a film of it: hopper_film.webp
"""

import argparse
import json
from collections.abc import Callable

from nesht_jax.run.cli.options import refuse_unknown
from nesht_jax.run.zoo import PREFIX, Card, cards

MOST_COLUMNS = 160
"""Width of the table, which a narrower terminal wraps."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht zoo`` takes."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and the cards."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    found = cards()

    def work() -> int:
        if given.json:
            print(json.dumps([{"name": PREFIX + n, **c._asdict()} for n, c in found.items()]))
        else:
            _print_table(found)
        return 0

    return work


def _print_table(found: dict[str, Card]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "task", "return", "95 % interval", "weights", "policy"):
        right = heading in ("return", "95 % interval", "weights")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for name, card in found.items():
        table.add_row(
            PREFIX + name,
            card.task,
            f"{card.mean:.0f}",
            f"{card.low:.0f} … {card.high:.0f}",
            str(card.weights),
            card.policy,
        )
    console = Console()
    wide = console.options.update(max_width=MOST_COLUMNS)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    first = next(iter(found), "name")
    print(f"Look at one: nesht report {PREFIX}{first} · nesht render {PREFIX}{first}")
