"""What must be known of this machine before a command trains on it.

JAX is imported inside: a mistyped option is answered before that takes its second.
"""

import math
import os
from pathlib import Path

ACCELERATORS = {
    "/proc/driver/nvidia/version": ("an NVIDIA GPU", "cuda13"),
    "/dev/accel0": ("a TPU", "tpu"),
}
"""File that is there with its driver -> what it is, and the extra of JAX that uses it."""


def has_accelerator() -> bool:
    """Tells whether JAX computes on something else than a CPU.

    Raises:
        ValueError: if JAX cannot use the platform that it is told to use.
    """
    import jax

    try:
        return jax.default_backend() != "cpu"
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS") or "its default platform"
        words = " ".join(str(error).split()) or "it is not there"
        raise ValueError(
            f"JAX cannot use {asked!r} on this machine (JAX_PLATFORMS): {words}"
        ) from error


def idle_accelerator() -> str | None:
    """Gives a sentence about a GPU or TPU that is here and that JAX cannot use; None without one,
    or if JAX is told what to use."""
    if has_accelerator() or os.environ.get("JAX_PLATFORMS"):
        return None
    for path, (name, extra) in ACCELERATORS.items():
        if Path(path).exists():
            return (
                f"{name} is here and idle, as JAX has no support of it: pip install 'jax[{extra}]'"
            )
    return None


def memory() -> float:
    """Gives the bytes that JAX's device has, of a CPU those of the machine; infinity if unknown."""
    import jax

    told = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return float(told["bytes_limit"])
    if hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def keep_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX's variable names another.

    Raises:
        ValueError: see ``has_accelerator``.
    """
    import jax

    has_accelerator()
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        jax.config.update(option, str(caches / "nesht_jax"))
