"""Write one page of a run, or a page that compares several: a file that needs no network."""

import argparse
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.options import add_generation, add_trust, check_out, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import default_out, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht report`` takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write [RUN/report.html; of several ./report.html]",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=20,
        help="episodes to play at each number of weights, of one run [20]",
    )


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command, and all that the page tells."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    folders = [run_folder(run) for run in given.runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"a run is named twice in {', '.join(map(str, given.runs))}")
    for folder in folders:
        read_config(folder, trust=given.trust)
    if given.episodes < 2:
        raise ValueError(f"episodes must be at least 2, for an interval, got {given.episodes}")
    out = given.out or Path("report.html")
    if given.out is None and len(folders) == 1:
        out = default_out(folders[0], "report.html")
    check_out(out)
    keep_compilations()
    from nesht_jax.report.page import verdict, write_page
    from nesht_jax.run.report import gather

    episodes = given.episodes if len(folders) == 1 else None  # several are compared by their logs
    asked = {"generation": given.generation, "episodes": episodes, "trust": given.trust}
    runs = [gather(run, **asked) for run in folders]

    def work() -> int:
        write_page(runs, out)
        if len(runs) == 1:
            print(verdict(runs[0]))
        print(f"{out}: {out.stat().st_size / 1024:,.0f} KiB")
        return 0

    return work
