"""Write a trained policy as a file that needs neither this library nor JAX."""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.options import add_generation, add_trust, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import default_out, run_folder

FORMATS = ("numpy", "c", "onnx", "jax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht export`` takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument(
        "--to",
        choices=FORMATS,
        default=FORMATS[0],
        help="a Python file that needs NumPy alone, a C header, an ONNX model, or a function of "
        "jax.export [numpy]",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write [RUN/policy.py, .h, .onnx or .jax]"
    )


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command, and the policy of the run."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    folder = run_folder(given.run)
    read_config(folder, trust=given.trust)
    if given.to == "onnx" and importlib.util.find_spec("onnx") is None:
        raise ValueError("export to ONNX needs onnx: pip install 'nesht-jax[onnx]'")
    keep_compilations()
    from nesht_jax.run.export import WRITERS
    from nesht_jax.run.load import load
    from nesht_jax.run.plain import largest_difference, plain

    policy = load(folder, given.generation, trust=given.trust)
    made = plain(policy)
    name, write = WRITERS[given.to]
    out = given.out or default_out(folder, name)

    def work() -> int:
        write(made, out)
        dense = sum(layer.fan_in * layer.fan_out for layer in policy.policy.layers)
        print(f"{out}: {out.stat().st_size:,} bytes, {made.num_weights} of {dense} weights")
        print(f"reads {', '.join(made.sensors) or 'nothing'}")
        difference = largest_difference(policy, made)
        print(f"checked: largest difference {difference:.1e} on 256 observations")
        return 0

    return work
