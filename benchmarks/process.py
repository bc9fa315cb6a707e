"""One measurement in a process of its own: no other's memory, caches or global state."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

MEBIBYTE = 2**20


def installed(peer: str) -> bool:
    """Whether a peer can be imported; says so in one sentence if not."""
    found = importlib.util.find_spec(peer) is not None
    if not found:
        print(f"{peer} is not installed, and left out: pip install -e '.[bench]'", flush=True)
    return found


def fresh(script: str, case: dict[str, Any]) -> dict[str, Any] | None:
    """The row that ``script --case`` prints last; ``None``, and its last words, if it fails."""
    command = [sys.executable, script, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{case} failed: {words[0]}", flush=True)
        return None
    row = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    print(row, flush=True)
    return row


def memory_in_use() -> float:
    """MiB: on an accelerator what JAX holds there, on a CPU the resident memory."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_in_use" in statistics:
        return statistics["bytes_in_use"] / MEBIBYTE
    return _kibibytes("VmRSS") / 1024


def memory_available() -> float:
    """MiB that the host has left."""
    return _kibibytes("MemAvailable", "/proc/meminfo") / 1024


def peak_of(call: Callable[[], Any]) -> tuple[Any, float]:
    """(what a call returns, MiB in use at most during it).

    On a CPU by the kernel's high-water mark, set back before the call, so that a compilation before
    it does not count; on an accelerator since the process began.
    """
    Path("/proc/self/clear_refs").write_text("5")
    result = jax.block_until_ready(call())
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return result, statistics["peak_bytes_in_use"] / MEBIBYTE
    return result, _kibibytes("VmHWM") / 1024


def _kibibytes(name: str, file: str = "/proc/self/status") -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path(file).read_text())
    return int(found.group(1)) if found else 0
