"""What a figure was measured with: device, cores, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import jax

PACKAGES = ("jax", "flax", "optax", "envpool", "mujoco-mjx", "brax", "gymnasium", "numpy")


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
