"""Write a trained policy as a file that needs neither this library nor JAX.

Beside its bytes and the time of one action stand those of the dense policy of the same shape, in
the same format.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from nesht_jax.run.cli.options import add_generation, add_trust, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.names import Format
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import run_folder

if TYPE_CHECKING:
    from nesht_jax.run.export import Exported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht export`` takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument(
        "--to",
        choices=get_args(Format),
        default="numpy",
        help="a Python file that needs NumPy alone, a C header, an ONNX model, a function of "
        "jax.export, or arrays in safetensors with a card in JSON [numpy]",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write [RUN/policy.py, .h, .onnx, .jax or .safetensors]",
    )


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command, and writes the file."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    folder = run_folder(given.run)
    read_config(folder, trust=given.trust)
    keep_compilations()
    from nesht_jax.run.export import export

    made = export(folder, given.to, path=given.out, generation=given.generation, trust=given.trust)
    return lambda: _print(made)


def _print(made: "Exported") -> int:
    sparse = made.weights < made.dense_weights
    beside = f" (dense: {made.dense_size:,} bytes)" if sparse else ""
    weights = f"{made.weights} of {made.dense_weights} weights"
    print(f"{made.path}: {made.size:,} bytes, {weights}{beside}")
    if made.card is not None:
        print(f"{made.card}: its card")
    print(f"reads {', '.join(made.sensors) or 'nothing'}")
    arrays = "" if made.how else " of its arrays, as nothing here runs a file of this kind and size"
    print(f"checked: largest difference {made.difference:.1e} on 256 observations{arrays}")
    if made.seconds is not None:
        dense = made.dense_seconds if sparse else None
        beside = "" if dense is None else f" (dense: {_time(dense)})"
        print(f"one action: {_time(made.seconds)}{beside}, the median in {made.how}")
    return 0


def _time(seconds: float) -> str:
    return f"{1e9 * seconds:.3g} ns" if seconds < 1e-6 else f"{1e6 * seconds:.3g} µs"
