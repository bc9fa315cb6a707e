"""Where a run was made: versions, command, device and times, in ``run.json`` of its folder."""

import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import nesht_jax
from nesht_jax.envs.host import cores
from nesht_jax.run.yaml import write

NAME = "run.json"

PACKAGES = ("nesht-jax", "jax", "flax", "optax", "numpy", "gymnasium", "mujoco", "envpool", "brax")
"""Packages whose versions are told, where they are installed."""


class Sitting:
    """One time that a run was trained, from its start or a resume to its end or a signal.

    Args:
        folder: run folder; its file tells of the sittings before.
        generation: generation that it goes on from.
    """

    def __init__(self, folder: Path, *, generation: int) -> None:
        self._path = folder / NAME
        self._earlier = read_sittings(folder)
        self._told: dict[str, Any] = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "begin": _now(),
            "from_generation": generation,
            "device": jax.local_devices()[0].device_kind,
            "devices": jax.device_count(),
            "cores": cores(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": versions(),
            "commit": _commit(),
        }
        self._write()

    def end(self, *, generation: int) -> None:
        """Notes the time, and the generation that was reached."""
        self._told |= {"end": _now(), "to_generation": generation}
        self._write()

    def _write(self) -> None:
        write(self._path, json.dumps([*self._earlier, self._told], indent=1) + "\n")


def read_sittings(folder: Path) -> list[dict[str, Any]]:
    """Reads what is told of a run, a sitting an entry; nothing of a file that does not read."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    sittings = told if isinstance(told, list) else []
    return [sitting for sitting in sittings if isinstance(sitting, dict)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Gives the versions of the packages that a run's numbers depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the package, if it runs from a checkout, and whether it was changed since."""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    root = Path(nesht_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        told = subprocess.run(git, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None
