"""What a generation costs on paper: seconds, bytes and memory by weights and devices.

    python benchmarks/on_paper.py

Arithmetic, but for the FLOPs of one number of noise, which are those of the compiled sum. What a
device computes and sends is given as options; simulators are left out, as if they took no time.
"""

import argparse

import jax
import jax.numpy as jnp
from measuring import Row, command, write

from nesht_jax.es import gradient, noise

GIB = 2**30

MOMENTS = 2 * 376 + 1
"""Numbers of the moments of one share, at the 376 features of Humanoid."""


def main() -> None:
    """Writes the table."""
    options = _options()
    flops = flops_of_noise()
    rows = [
        line(options, flops, weights, devices)
        for weights in options.weights
        for devices in options.devices
    ]
    write(options.out, rows)


def flops_of_noise(d: int = 10_000, n: int = 64) -> float:
    """FLOPs of drawing one number of noise and adding it to a sum, as XLA counts them."""
    params = jnp.zeros(d)

    def total(key: jax.Array, weights: jax.Array) -> jax.Array:
        return gradient.weighted_noise(lambda j: noise.perturbation(key, j, params), weights)

    shapes = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros(n)))
    cost = jax.jit(total).lower(*shapes).compile().cost_analysis() or {}
    return cost["flops"] / (n * d)


def line(options: argparse.Namespace, flops: float, weights: float, devices: int) -> Row:
    """The row of so many weights on so many devices."""
    members, d, rate = options.num_members, weights, options.teraflops * 1e12
    # each member is drawn once to be played, each direction once more for the gradient
    drawn = (members + members / 2) * d / devices
    work = flops * drawn / rate
    gradient_bytes = 4 * 2 * d * (1 - 1 / devices)
    gathered = 4 * (2 * members + devices * MOMENTS) * (devices > 1)
    sent, hops = gradient_bytes + gathered, 2 * (devices - 1).bit_length()
    link = sent / (options.gigabytes * 1e9) + hops * options.microseconds / 1e6
    state = 24 * d / GIB  # params, two moments of Adam, gradient, update, what is drawn
    played = members / devices * 4 * d / GIB
    return {
        "weights": f"{d:.0e}",
        "devices": devices,
        "noise_seconds": f"{work:.1e}",
        "link_seconds": f"{link:.1e}",
        "megabytes_sent": f"{sent / 1e6:.2g}",
        "state_gib": f"{state:.2g}",
        "members_gib": f"{played:.2g}",
        "what_stops": stops(options, devices, state=state, played=played, work=work, link=link),
    }


def stops(
    options: argparse.Namespace,
    devices: int,
    *,
    state: float,
    played: float,
    work: float,
    link: float,
) -> str:
    """Says what does not fit, or what the time goes to."""
    if devices > options.num_members // 2:
        return "more devices than pairs of members"
    if state > options.gib:
        return "the optimizer's state: it would have to be sharded"
    if state + played > options.gib:
        return "members of full rank: play them in turns, or at rank 1"
    return "the link" if link > work else "the noise"


def _options() -> argparse.Namespace:
    parser = command(__doc__, "on_paper.csv")
    add = parser.add_argument
    weights = [10.0**e for e in range(4, 10)]
    add("--weights", type=float, nargs="+", default=weights, help="d [1e4 ... 1e9]")
    add("--devices", type=int, nargs="+", default=[1, 8, 64, 1024], help="D [1 8 64 1024]")
    add("--num_members", type=int, default=4096, help="members m [4096]")
    add("--teraflops", type=float, default=10.0, help="10^12 FLOP/s of a device [10]")
    add("--gigabytes", type=float, default=50.0, help="10^9 bytes/s of its link [50]")
    add("--microseconds", type=float, default=20.0, help="latency of a hop [20]")
    add("--gib", type=float, default=80.0, help="memory of a device in GiB [80]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
