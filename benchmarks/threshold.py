"""H_k: the mask of the k largest of d magnitudes, against the usual ways to find them.

    python benchmarks/threshold.py

``numpy.partition`` is given the magnitudes and finds the bar only; so do ``sort`` and ``quantile``.
``lax.top_k`` finds the kept entries. ``hard_threshold`` writes the whole sparse vector.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Row, Table, command, timed

from nesht_jax import hard_threshold
from nesht_jax.sparse.top_k import num_kept


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    for d in options.sizes:
        for row in measure(d, options.sparsity, options.repeats):
            table.add(row)


def measure(d: int, sparsity: float, repeats: int) -> list[Row]:
    """Times every method. All keep the same share of the same normal vector."""
    k = num_kept(d, sparsity)
    timings = {name: timed(f, repeats=repeats) for name, f in methods(d, k, sparsity).items()}
    return [
        {
            "d": d,
            "k": k,
            "method": name,
            "milliseconds": round(1e3 * timing.median, 3),
            "low": round(1e3 * timing.low, 3),
            "high": round(1e3 * timing.high, 3),
            "first_call": round(1e3 * timing.first, 1),
            "times_hard_threshold": round(timing.median / timings["hard_threshold"].median, 2),
        }
        for name, timing in timings.items()
    ]


def methods(d: int, k: int, sparsity: float) -> dict[str, Callable[[], Any]]:
    """Calls to time, by name."""
    x = np.random.default_rng(0).normal(size=d).astype(np.float32)
    magnitude, on_device = np.abs(x), jnp.asarray(x)
    ours = jax.jit(hard_threshold)
    top_k = jax.jit(lambda x: jax.lax.top_k(jnp.abs(x), k))
    sort = jax.jit(lambda x: jnp.sort(jnp.abs(x))[-k])
    quantile = jax.jit(lambda x: jnp.quantile(jnp.abs(x), sparsity))
    return {
        "hard_threshold": lambda: ours(on_device, k),
        "numpy.partition": lambda: np.partition(magnitude, d - k)[d - k],
        "lax.top_k": lambda: top_k(on_device),
        "sort": lambda: sort(on_device),
        "quantile": lambda: quantile(on_device),
    }


def _options() -> argparse.Namespace:
    parser = command(__doc__, "threshold.csv")
    add, sizes = parser.add_argument, [1_000, 10_000, 100_000, 1_700_000, 10_000_000]
    shown = " ".join(map(str, sizes))
    add("--sizes", type=int, nargs="+", default=sizes, help=f"numbers d of entries [{shown}]")
    add("--sparsity", type=float, default=0.9, help="fraction zeroed [0.9]")
    add("--repeats", type=int, default=15, help="timed calls [15]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
