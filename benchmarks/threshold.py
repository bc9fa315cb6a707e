"""H_k: the mask of the k largest of d magnitudes, against the usual ways to find them.

    python benchmarks/threshold.py

``numpy.partition`` is given the magnitudes and finds the bar only; so do ``sort`` and ``quantile``.
``lax.top_k`` finds the kept entries. ``hard_threshold`` writes the whole sparse vector.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from table import timed, write

from nesht_jax import hard_threshold


def main() -> None:
    options = _parse()
    rows = []
    for d in options.sizes:
        rows.extend(measure(d, options))
        write(options.out, rows)


def measure(d: int, options: argparse.Namespace) -> list[dict]:
    """A row a method. All keep the same share of the same normal vector."""
    k = d - int(options.sparsity * d)
    x = np.random.default_rng(0).normal(size=d).astype(np.float32)
    magnitude, on_device = np.abs(x), jnp.asarray(x)
    ours = jax.jit(hard_threshold)
    jax_methods = {
        "lax.top_k": jax.jit(lambda x: jax.lax.top_k(jnp.abs(x), k)),
        "sort": jax.jit(lambda x: jnp.sort(jnp.abs(x))[-k]),
        "quantile": jax.jit(lambda x: jnp.quantile(jnp.abs(x), options.sparsity)),
    }
    calls = {
        "hard_threshold": lambda: ours(on_device, k),
        "numpy.partition": lambda: np.partition(magnitude, d - k)[d - k],
        **{name: (lambda f=f: f(on_device)) for name, f in jax_methods.items()},
    }
    timings = {name: timed(call, repeats=options.repeats) for name, call in calls.items()}
    assert int(jnp.count_nonzero(ours(on_device, k))) == k
    rows = [
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
    for row in rows:
        print(row, flush=True)
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [1_000, 10_000, 100_000, 1_700_000, 10_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/threshold.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
