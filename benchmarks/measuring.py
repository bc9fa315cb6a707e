"""What the scripts share: commands, timing, memory, and tables that say how they were made."""

import argparse
import csv
import importlib.util
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from nesht_jax.envs.host import cores
from nesht_jax.run.cli.options import add_settings, given_settings
from nesht_jax.run.config import Config
from nesht_jax.run.machine import has_accelerator
from nesht_jax.run.names import resolve_task
from nesht_jax.run.settings import read_command

HERE = Path(__file__).parent
MEBIBYTE = 2**20
PACKAGES = (
    "jax",
    "flax",
    "optax",
    "envpool",
    "mujoco-mjx",
    "brax",
    "gymnasium",
    "numpy",
    "evosax",
    "evotorch",
    "torch",
    "ray",
)
"""Packages whose versions a table tells."""

Row = dict[str, Any]
"""Column -> value."""

Case = TypeVar("Case")


# ---------------------------------------------------------------------------------- commands


def command(about: str | None, table: str) -> argparse.ArgumentParser:
    """Makes the parser of a script that writes a table.

    Args:
        about: docstring of the script.
        table: name of the table's file, in the folder of the scripts unless ``--out`` says else.
    """
    parser = argparse.ArgumentParser(
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=HERE / table, help=f"table to write [{table}]")
    return parser


def task_name(given: str) -> str:
    """Finds the task that a word of the command line means: the ``type`` of such arguments."""
    try:
        return resolve_task(given, accelerator="/" not in given and has_accelerator()).task
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def planned(cases: Iterable[Case]) -> list[Case]:
    """Makes all cases before the first is measured; bad input ends the process with a sentence."""
    try:
        return list(cases)
    except ValueError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse_with_settings(
    parser: argparse.ArgumentParser,
) -> tuple[argparse.Namespace, Callable[..., Config]]:
    """Reads a command that takes the words and options of ``nesht train`` beside its own.

    Returns:
        The script's own options, and ``(task=None) -> config`` of all others, as ``nesht train``
        makes it; for another task if one is given. Bad input ends the process with one sentence.
    """
    parser.usage = "%(prog)s [TASK | SETTINGS ...] [options]"
    parser.epilog = "The options of `nesht train` are taken as well."
    own, rest = parser.parse_known_args()
    others = argparse.ArgumentParser(parser.prog, add_help=False, allow_abbrev=False)
    add_settings(others)
    given, unknown = others.parse_known_intermixed_args(rest)
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    if "seed" in given:
        parser.error("seeds are given by --seeds")

    def make_config(task: str | None = None) -> Config:
        try:
            settings = given_settings(given) | ({"task": task} if task else {})
            config, notes = read_command(given.settings, settings)
        except ValueError as error:
            parser.error(str(error))
        print(*notes, sep="\n", end="\n" if notes else "", flush=True)
        return config

    return own, make_config


def with_fraction(config: Config, fraction: float) -> Config:
    """The config as NESHT that zeroes this fraction of the weights; as NES if it is 0."""
    method = "hard_threshold" if fraction else "none"
    return replace(config, sparsity=replace(config.sparsity, method=method, fraction=fraction))


# ---------------------------------------------------------------------------------- tables


class Table:
    """A table that is written as it grows: a script that is cut off leaves what it has.

    Attributes:
        rows: rows so far.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        self._path, self.rows = path, list(rows)

    def add(self, row: Row) -> None:
        """Appends a row, prints it and writes the table."""
        self.rows.append(row)
        print(row, flush=True)
        write(self._path, self.rows)


def write(path: Path, rows: list[Row]) -> None:
    """Writes rows as CSV, below a line that says what they were measured with."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {versions()}\n")
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def unfinished(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a table to go on with; none if it was measured with something else."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        same = file.readline() == f"# {versions()}\n"
        return list(csv.DictReader(file)) if same else []


def versions() -> str:
    """Tells device, cores, versions and commit in one line."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    device, python = jax.devices()[0].device_kind, platform.python_version()
    return f"{device}, {cores()} cores, Python {python}, {', '.join(found)}, commit {commit()}"


def commit() -> str:
    """Names the commit of the scripts, and whether something was changed since."""
    git = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(git, cwd=HERE, capture_output=True, text=True).stdout.strip()


# ---------------------------------------------------------------------------------- timing


class Timing(NamedTuple):
    """How long one call takes.

    Attributes:
        first: seconds of the first call, with compilation.
        median: median of the seconds of the calls after it.
        low: seconds of the fastest of them.
        high: seconds of the slowest.
    """

    first: float
    median: float
    low: float
    high: float


def timed(call: Callable[[], Any], *, repeats: int) -> Timing:
    """Times a call, the first one apart; what JAX computes is waited for."""

    def once() -> float:
        started = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - started

    first, later = once(), [once() for _ in range(repeats)]
    return Timing(first, statistics.median(later), min(later), max(later))


# ---------------------------------------------------------------------------------- processes


def installed(peer: str) -> bool:
    """Tells whether a peer can be imported, and prints how to install it if not."""
    found = importlib.util.find_spec(peer) is not None
    if not found:
        print(f"{peer} is not installed, and left out: pip install -e '.[bench]'", flush=True)
    return found


def fresh(script: str, case: dict[str, Any]) -> Row | None:
    """Measures one case in a process of its own: no other's memory, caches or global state.

    Returns:
        The row that ``script --case`` prints last; None, after its last words, if it fails.
    """
    arguments = [sys.executable, script, "--case", json.dumps(case)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{case} failed: {words[0]}", flush=True)
        return None
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def memory_in_use() -> float:
    """Memory in MiB: what JAX holds on an accelerator, what is resident on a CPU."""
    told = jax.devices()[0].memory_stats() or {}
    if "bytes_in_use" in told:
        return told["bytes_in_use"] / MEBIBYTE
    return _mebibytes("VmRSS")


def peak_memory() -> float:
    """The most that was resident since the process began, in MiB."""
    return _mebibytes("VmHWM")


def memory_available() -> float:
    """Memory in MiB that the machine has left."""
    return _mebibytes("MemAvailable", "/proc/meminfo")


def peak_of(call: Callable[[], Any]) -> tuple[Any, float]:
    """Makes a call; gives its result, and the most memory in MiB that was in use during it.

    On a CPU by the kernel's high-water mark, set back before the call, so that a compilation before
    it does not count; on an accelerator since the process began.
    """
    Path("/proc/self/clear_refs").write_text("5")
    result = jax.block_until_ready(call())
    told = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return result, told["peak_bytes_in_use"] / MEBIBYTE
    return result, peak_memory()


def _mebibytes(name: str, file: str = "/proc/self/status") -> float:
    found = re.search(rf"{name}:\s+(\d+)", Path(file).read_text())
    return int(found.group(1)) / 1024 if found else 0.0
