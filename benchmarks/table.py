"""Tables of measurements: timing, what a figure was measured with, and the file it goes to."""

import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax

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


def versions() -> str:
    """One line."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    device = jax.devices()[0].device_kind
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{device}, {cores} cores, Python {python}, {', '.join(found)}, commit {commit}"


class Timing(NamedTuple):
    """Seconds of one call.

    Attributes:
        first: of the first call, compilation included.
        median: of the calls after it.
        low: the fastest of them.
        high: the slowest.
    """

    first: float
    median: float
    low: float
    high: float


def timed(call: Callable[[], Any], *, repeats: int = 15) -> Timing:
    """Seconds of a call, the first apart; JAX is waited for."""

    def once() -> float:
        started = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - started

    first, later = once(), [once() for _ in range(repeats)]
    return Timing(first, statistics.median(later), min(later), max(later))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table as CSV, with what it was measured with in the first line."""
    with path.open("w", newline="") as file:
        file.write(f"# {versions()}\n")
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        file.readline()
        return list(csv.DictReader(file))


def unfinished(path: Path) -> list[dict[str, str]]:
    """The rows of a table to go on with: if it was measured with what is here now, else none."""
    if not path.exists():
        return []
    with path.open() as file:
        same = file.readline() == f"# {versions()}\n"
    return rows_of(path) if same else []
