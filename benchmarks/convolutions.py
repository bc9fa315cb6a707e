"""One step of the Atari networks of a batch of members, by the form of their convolutions.

    python benchmarks/convolutions.py

``blocks`` is what ``nesht_jax.policy.convolution`` does: one product of all blocks of stride ×
stride pixels, and a sum of its shifted parts. ``patches`` copies every filter's square first
(im2col). ``grouped`` is XLA's convolution, in which ``vmap`` makes a group of every member. Members
step ``together``, under ``vmap``, or ``one by one``. With ``rank 1`` their filters are a shared
matrix and factors of their own; ``shared`` is one network for all, which no perturbation can be
cheaper than.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from measuring import Row, Table, command, timed

from nesht_jax.policy.convolution import CONVOLUTIONS, Convolutions, convolve, convolved
from nesht_jax.policy.network import Network
from nesht_jax.types import LowRank, Params

CHANNELS, EDGE, ACTIONS = 4, 84, 6
"""Sizes of the network: stacked frames, their pixels in height and in width, and its outputs."""


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    weights = {"full": full, "rank 1": low_rank, "shared": shared}
    for form, (kind, make), batching in itertools.product(FORMS, weights.items(), BATCHINGS):
        if kind == "rank 1" and form != "blocks":
            continue
        row = measure(form, make, batching, options)
        table.add({"convolutions": options.convolutions, "form": form, "weights": kind} | row)


def measure(form: str, make: Callable, batching: str, options: argparse.Namespace) -> Row:
    """Milliseconds of a step of all members, and processor time of it."""
    convolutions = CONVOLUTIONS[options.convolutions]
    network = Network((ACTIONS,), jax.nn.relu, convolutions, (CHANNELS, EDGE, EDGE))
    x = jax.random.uniform(jax.random.key(0), (options.num_members, CHANNELS * EDGE**2))
    params, axes = make(network, x[0], options.num_members)
    apply = BATCHINGS[batching](forward(convolutions, FORMS[form]))
    step = jax.jit(jax.vmap(apply, (axes, 0))).lower(params, x).compile()
    found = timed(lambda: step(params, x), repeats=options.repeats)
    started = time.process_time()
    for _ in range(options.repeats):
        jax.block_until_ready(step(params, x))
    processor = (time.process_time() - started) / options.repeats
    return {
        "batching": batching,
        "num_members": options.num_members,
        "milliseconds": round(1e3 * found.median, 2),
        "low": round(1e3 * found.low, 2),
        "high": round(1e3 * found.high, 2),
        "processor_milliseconds": round(1e3 * processor, 2),
    }


def forward(convolutions: Convolutions, form: Callable) -> Callable[[Params, jax.Array], jax.Array]:
    """What ``Network`` computes, its filters in the form that is given."""

    def apply(params: Params, x: jax.Array) -> jax.Array:
        layers = (params[f"layer{number}"] for number in itertools.count())

        def filters(image: jax.Array, features: int, size: int, stride: int) -> jax.Array:
            layer = next(layers)
            return form(image, layer["kernel"], size=size, stride=stride) + layer["bias"]

        image = jnp.moveaxis(x.reshape(CHANNELS, EDGE, EDGE), 0, -1)
        y = convolved(image, convolutions, filters=filters, activation=jax.nn.relu)
        last = next(layers)
        return y @ last["kernel"] + last["bias"]

    return apply


def shared(network: Network, x: jax.Array, num_members: int) -> tuple[Params, Any]:
    """Params of all members, and the axes along which they differ."""
    return network.init(jax.random.key(1), x)["params"], None


def full(network: Network, x: jax.Array, num_members: int) -> tuple[Params, Any]:
    """Params of all members, each with its own, and their axes."""
    keys = jax.random.split(jax.random.key(1), num_members)
    return jax.vmap(lambda key: network.init(key, x)["params"])(keys), 0


def low_rank(network: Network, x: jax.Array, num_members: int) -> tuple[Params, Any]:
    """Params of all members, with factors of their own, and their axes."""
    center, _ = shared(network, x, num_members)

    def factors(leaf: jax.Array) -> Any:
        if leaf.ndim < 2:
            return jnp.broadcast_to(leaf, (num_members, *leaf.shape))
        a, b = (
            jax.random.normal(jax.random.key(n), (num_members, size, 1))
            for n, size in enumerate(leaf.shape)
        )
        return LowRank(leaf, a, b)

    def axes(leaf: jax.Array) -> Any:
        return LowRank(None, 0, 0) if leaf.ndim > 1 else 0

    return jax.tree.map(factors, center), jax.tree.map(axes, center)


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


FORMS = {"blocks": convolve, "patches": patches, "grouped": grouped}
BATCHINGS = {"together": lambda f: f, "one by one": jax.custom_batching.sequential_vmap}


def _options() -> argparse.Namespace:
    parser = command(__doc__, "convolutions.csv")
    add, choices = parser.add_argument, [name for name, parts in CONVOLUTIONS.items() if parts]
    add("--convolutions", default="dqn2013", choices=choices, help="network [dqn2013]")
    add("--num_members", type=int, default=32, help="members that step [32]")
    add("--repeats", type=int, default=15, help="timed calls [15]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
