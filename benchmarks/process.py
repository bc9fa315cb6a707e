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


def peak_growth(call: Callable[[], Any]) -> float:
    """MiB by which the memory in use rises at most during a call.

    On an accelerator JAX's own count, since the process began; on a CPU the kernel's high-water
    mark of resident memory, set back before the call, so that compilation does not count.
    """
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        jax.block_until_ready(call())
        after = jax.devices()[0].memory_stats() or {}
        return (after["peak_bytes_in_use"] - statistics["bytes_in_use"]) / MEBIBYTE
    Path("/proc/self/clear_refs").write_text("5")
    before = _kibibytes("VmHWM")
    jax.block_until_ready(call())
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found.group(1)) if found else 0
