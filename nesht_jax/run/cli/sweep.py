"""Train a policy for each combination of values and each seed, as a folder of runs.

  nesht sweep CartPole-v1 --optimizer.learning_rate 0.01,0.03 --seed 0..4 --out sweeps/rates
  nesht sweep mine.yaml paper --policy.hidden [],[8],[64,64] --out sweeps/hidden
  nesht sweep CartPole-v1 --optuna 20 --optimizer.learning_rate 0.001..0.1 --out sweeps/search

It takes what `nesht train` takes, and every option may have several values, separated by commas, or
be a range of whole numbers, both ends included. Commas within brackets separate nothing: [64,64] is
one value. --out names the folder of the runs, which gets a table, sweep.csv, and a picture,
sweep.png. The same command again goes on with what is there; more values or seeds are added to it.

With --optuna N the values are not combined but searched, in N trials: of several values one is
chosen, of a range any number of it. The first trial has the settings as they are without a search,
or the nearest in the ranges. A trial is trained on each seed, and scored by the mean of their last
returns.
"""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from signal import SIGINT, Signals
from typing import TYPE_CHECKING, Any

import numpy as np

from nesht_jax.report.rows import finite
from nesht_jax.report.sweeps import (
    Combination,
    SweptRun,
    as_text,
    combinations,
    csv_table,
    in_words,
)
from nesht_jax.run.cli.grid import Grid, Tuning, read_grid, read_tuning
from nesht_jax.run.cli.options import add_settings, refuse_unknown
from nesht_jax.run.config import Config
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.tuning import check_folder, check_installed, tune
from nesht_jax.run.yaml import write

if TYPE_CHECKING:
    from rich.console import Console

MOST_COLUMNS = 1000
"""Width of a table that is not folded, however narrow the terminal: numbers stay whole."""

FILES = {"table": "sweep.csv", "picture": "sweep.png"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht sweep`` takes."""
    parser.usage = "nesht sweep [TASK | SETTINGS ...] [options] --out FOLDER"
    add_settings(parser)
    parser.add_argument("--optuna", metavar="N", help="number of trials of a search by Optuna")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command, and refuses all of it if one of its runs would be refused."""
    given, leftover = parser.parse_known_intermixed_args(argv)
    refuse_unknown(leftover)
    if "out" not in given:
        raise ValueError("name the folder of the runs, as in --out sweeps/mine")
    if given.optuna is not None:
        return _prepare_search(given, argv)
    grid, folder = read_grid(given), Path(given.out)
    keep_compilations()
    from rich.console import Console

    from nesht_jax.run.sweep import check, planned

    configs = planned(grid.bases, seeds=grid.seeds, folder=folder)
    # what simulators print must not stand among the JSON
    quiet = contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext()
    with quiet:
        check(configs, folder)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=given.json)

    def train() -> list[SweptRun]:
        with quiet:
            return _train(grid, configs, console)

    tasks = dict.fromkeys(config.task for config in grid.bases)
    title = f"{' and '.join(tasks)}, {_seeds(grid.seeds)}"
    return lambda: _work(train, folder, title, console, argv, json=given.json)


def _prepare_search(given: argparse.Namespace, argv: list[str]) -> Callable[[], int]:
    """Reads the command of a search, and refuses it if its first trial would be refused."""
    if not given.optuna.isdecimal() or int(given.optuna) < 1:
        raise ValueError(f"--optuna must be a number of trials, at least 1, got {given.optuna}")
    found, folder, trials = read_tuning(given), Path(given.out), int(given.optuna)
    check_installed()
    keep_compilations()
    from rich.console import Console

    from nesht_jax.run.sweep import check_runs, planned

    check_folder(folder, found.searched())
    first = found.config(found.first)
    quiet = contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext()
    with quiet:
        check_runs(planned([first], seeds=found.seeds, folder=folder))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=given.json)

    def train() -> list[SweptRun]:
        with quiet:
            return _tune(found, folder, trials, console)

    title = f"{first.task}, {trials} trials, {_seeds(found.seeds)}"
    return lambda: _work(train, folder, title, console, argv, json=given.json)


def _work(
    train: Callable[[], list[SweptRun]],
    folder: Path,
    title: str,
    console: "Console",
    argv: list[str],
    *,
    json: bool,
) -> int:
    """Trains and concludes, or says how to go on after a signal; gives the exit code."""
    from nesht_jax.run.sweep import Interrupted

    try:
        runs = train()
    except Interrupted as stopped:
        return _stopped(console, stopped.signal, argv)
    except KeyboardInterrupt:  # between two runs, or a second one
        return _stopped(console, SIGINT, argv)
    if not runs:
        raise FloatingPointError("every agent diverged: there is nothing to compare")
    _conclude(runs, folder, title, None if json else console)
    return 0


def _tune(found: Tuning, folder: Path, trials: int, console: "Console") -> list[SweptRun]:
    """Trains the trials of a search, or reads those that are done."""
    from nesht_jax.run.cli.conclusion import say
    from nesht_jax.run.sweep import sweep

    for note in found.notes:
        say(console, note)
    runs: dict[Path, SweptRun] = {}

    def score(number: int, settings: dict[str, Any]) -> float | None:
        say(console, f"trial {number} of {trials}: {in_words(settings)}")
        try:
            swept = list(
                sweep([found.config(settings)], seeds=found.seeds, folder=folder, console=console)
            )
        except ValueError as error:  # values that exclude each other
            say(console, f"refused: {error}")
            return None
        for config, result in swept:
            values = {name: attrgetter(name)(config) for name in found.space}
            name = config.folder.name
            runs[config.folder] = SweptRun(values, config.seed, name, result.rows, result.reading)
        returns = [runs[config.folder].row()["return"] for config, _ in swept]
        all_ended = len(returns) == len(found.seeds) and None not in returns
        return float(np.mean(returns)) if all_ended else None

    told = found.searched()
    tune(folder, found.space, first=found.first, trials=trials, searched=told, score=score)
    return list(runs.values())


def _train(grid: Grid, configs: list[Config], console: "Console") -> list[SweptRun]:
    """Trains the runs, those that share a program side by side, or reads those that are done."""
    from nesht_jax.run.cli.conclusion import say
    from nesht_jax.run.sweep import batches, ended

    for note in grid.notes:
        say(console, note)
    found: dict[Path, SweptRun] = {}
    number = 0
    for batch in batches(configs):
        say(console, _which(grid, batch, first=number + 1, number=len(configs)))
        number += len(batch)
        for config, result in ended(batch, console=console):
            values, name = _values(grid, config), config.folder.name
            found[config.folder] = SweptRun(values, config.seed, name, result.rows, result.reading)
    return [found[config.folder] for config in configs if config.folder in found]


def _values(grid: Grid, config: Config) -> dict[str, Any]:
    """The values of the options that the sweep varies."""
    return {name: attrgetter(name)(config) for name in grid.varied}


def _which(grid: Grid, batch: list[Config], *, first: int, number: int) -> str:
    """Says which runs are trained next."""
    told = [_values(grid, config) | {"seed": config.seed} for config in batch]
    if len(batch) == 1:
        return f"run {first} of {number}: {in_words(told[0])}"
    values = {name: dict.fromkeys(as_text(own[name]) for own in told) for name in told[0]}
    words = "; ".join(f"{name} {', '.join(some)}" for name, some in values.items())
    return f"runs {first} to {first + len(batch) - 1} of {number}, side by side: {words}"


def _stopped(console: "Console", signal: Signals, argv: list[str]) -> int:
    """Says how to go on after a signal; gives its exit code."""
    from nesht_jax.run.cli.conclusion import say

    again = shlex.join(["nesht", "sweep", *argv])
    say(console, f"Stopped by {signal.name}; go on with the same command: {again}")
    return 128 + signal


def _seeds(seeds: list[int]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _conclude(runs: list[SweptRun], folder: Path, title: str, console: "Console | None") -> None:
    """Writes the table and the picture of a sweep, and prints it; as JSON without a console."""
    from nesht_jax.report.figures import sweep_picture

    found = combinations(runs)
    write(folder / FILES["table"], csv_table(runs))
    sweep_picture(found, folder / FILES["picture"], title=title)
    if console is None:
        print(json.dumps(finite([run.row() for run in runs]), allow_nan=False))
    else:
        _print(found, folder, title, console)


def _print(found: list[Combination], folder: Path, title: str, console: "Console") -> None:
    """Prints a line for each combination, and where table and picture lie."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from nesht_jax.run.cli.conclusion import say

    lines = [_line(combination) for combination in found]
    headings = list(dict.fromkeys(heading for line in lines for heading in line))
    table = Table(title=escape(title), box=SIMPLE_HEAD)
    for heading in headings:
        justify = "left" if heading in found[0].values else "right"
        table.add_column(escape(heading.replace(".", ".\n")), justify=justify, no_wrap=True)
    for line in lines:
        table.add_row(*(escape(line.get(heading, "")) for heading in headings))
    wide = console.options.update(max_width=MOST_COLUMNS)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    for what, name in FILES.items():
        say(console, f"{what}: {folder / name}")


def _line(combination: Combination) -> dict[str, str]:
    """A combination as cells of the table, by their headings."""
    returns, (low, high) = combination.column("return"), combination.interval()
    line = {name: as_text(value) for name, value in combination.values.items()}
    line["median\nreturn"] = _number(float(np.median(returns)))
    line["mean\nreturn"] = _number(float(returns.mean()))
    line["95 %\ninterval"] = "none" if np.isnan(low) else f"{low:.1f} … {high:.1f}"
    for heading, name in (("sensors\nread", "sensors"), ("irrelevant\nread", "irrelevant")):
        shown = combination.column(name)
        if (shown > 0).all():
            read = combination.column(f"{name}_read").mean()
            line[heading] = f"{round(read, 1):g} of {shown[0]:g}"
    line["steps"] = f"{combination.column('steps').mean():,.0f}"
    return line


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.1f}"
