"""One step of the Atari networks of a batch of members, by the form of their convolutions.

    python benchmarks/convolutions.py

``blocks`` is what ``nesht_jax.network`` does: one product of all blocks of stride × stride pixels,
and a sum of its shifted parts. ``patches`` copies every filter's square first (im2col). ``grouped``
is XLA's convolution, in which ``vmap`` makes a group of every member. Members step ``together``,
under ``vmap``, or ``one by one``. With ``rank`` their filters are a shared matrix and factors of
their own; ``shared`` is one network for all, which no perturbation can be cheaper than.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
from jax import lax
from table import timed, write

from nesht_jax import network
from nesht_jax.contract import LowRank


def main() -> None:
    options = _parse()
    rows = []
    weights = {"full": own, "rank 1": low_rank, "shared": shared}
    for form, (kind, make), batching in itertools.product(FORMS, weights.items(), BATCHINGS):
        if kind == "rank 1" and form != "blocks":
            continue
        row = measure(form, make, batching, options)
        rows.append({"convolutions": options.convolutions, "form": form, "weights": kind} | row)
        print(rows[-1], flush=True)
        write(options.out, rows)


def measure(form: str, make: Callable, batching: str, options: argparse.Namespace) -> dict:
    """Milliseconds of a step of all members, and processor time of it."""
    channels, height, width = frames = (4, 84, 84)
    convolutions = network.CONVOLUTIONS[options.convolutions]
    net = network.Network((6,), jax.nn.relu, convolutions, frames)
    x = jax.random.uniform(jax.random.key(0), (options.members, channels * height * width))
    params, axes = make(net, x[0], options.members)
    apply = BATCHINGS[batching](lambda params, x: net.apply({"params": params}, x))
    with patch("nesht_jax.network.convolution", FORMS[form]):
        step = jax.jit(jax.vmap(apply, (axes, 0))).lower(params, x).compile()
    found = timed(lambda: step(params, x), repeats=options.repeats)
    started = time.process_time()
    for _ in range(options.repeats):
        jax.block_until_ready(step(params, x))
    processor = (time.process_time() - started) / options.repeats
    return {
        "batching": batching,
        "members": options.members,
        "milliseconds": round(1e3 * found.median, 2),
        "low": round(1e3 * found.low, 2),
        "high": round(1e3 * found.high, 2),
        "processor_milliseconds": round(1e3 * processor, 2),
    }


def shared(net: network.Network, x: jax.Array, members: int) -> tuple[Any, Any]:
    """Params of all members, and the axes along which they differ."""
    return net.init(jax.random.key(1), x)["params"], None


def own(net: network.Network, x: jax.Array, members: int) -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(1), members)
    return jax.vmap(lambda key: net.init(key, x)["params"])(keys), 0


def low_rank(net: network.Network, x: jax.Array, members: int) -> tuple[Any, Any]:
    centre, _ = shared(net, x, members)

    def factors(leaf: jax.Array) -> Any:
        if leaf.ndim < 2:
            return jnp.broadcast_to(leaf, (members, *leaf.shape))
        a, b = (jax.random.normal(jax.random.key(n), (members, size, 1)) for n, size in
                enumerate(leaf.shape))  # fmt: skip
        return LowRank(leaf, a, b)

    def axes(leaf: jax.Array) -> Any:
        return LowRank(None, 0, 0) if leaf.ndim > 1 else 0

    return jax.tree.map(factors, centre), jax.tree.map(axes, centre)


def patches(x: jax.Array, kernel: jax.Array, *, size: int, stride: int) -> jax.Array:
    """A product of every filter's square with the kernel."""
    cut = lax.conv_general_dilated_patches(
        x[None], (size, size), (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return cut[0] @ kernel


def grouped(x: jax.Array, kernel: jax.Array, *, size: int, stride: int) -> jax.Array:
    """XLA's convolution."""
    filters = kernel.reshape(x.shape[-1], size, size, -1).transpose(1, 2, 0, 3)
    return lax.conv_general_dilated(
        x[None], filters, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


FORMS = {"blocks": network.convolution, "patches": patches, "grouped": grouped}
BATCHINGS = {"together": lambda f: f, "one by one": jax.custom_batching.sequential_vmap}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = [name for name, parts in network.CONVOLUTIONS.items() if parts]
    parser.add_argument("--convolutions", default="dqn2013", choices=choices)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/convolutions.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
