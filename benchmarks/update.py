"""Time and memory of one update without an environment: every member made once, then told.

    python benchmarks/update.py

``nesht`` makes its members a chunk at a time, as a suite does, scores each chunk and throws it
away; ``tell`` makes the noise again. evosax holds the population between its ``ask`` and its
``tell``. Both are one compiled program, score members by their squared norm, and hand them to the
score as arrays in memory: a compiler that fuses the score into the sampling makes no members at
all. ``nesht_tell`` is the update alone. Every case runs in a process of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from measuring import (
    MEBIBYTE,
    Row,
    Table,
    command,
    fresh,
    installed,
    memory_in_use,
    peak_of,
    timed,
)

from nesht_jax import State, nesht
from nesht_jax.es.gradient import CHUNK_ENTRIES

SIGMA, LEARNING_RATE = 0.1, 0.01
METHODS = ["evosax", "nesht", "nesht_tell"]

Generation = tuple[Any, Callable[[Any], Any]]
"""A state, and the function that makes of it the next."""


def main() -> None:
    """Writes the table, or prints the row of one case."""
    options = _options()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    methods = [m for m in options.methods if m != "evosax" or installed("evosax")]
    table = Table(options.out)
    for d in options.sizes:
        for method in methods:
            case = {"method": method, "d": d, "m": options.num_members, "repeats": options.repeats}
            if row := fresh(__file__, case):
                table.add(row | against(table.rows, row))


def measure(*, method: str, d: int, m: int, repeats: int) -> Row:
    """Finds the peak memory in the first call after compilation, then the times."""
    start, generation = {"nesht": ours, "nesht_tell": ours_tell, "evosax": evosax}[method](d, m)
    started = time.perf_counter()
    compiled = jax.jit(generation).lower(start).compile()
    compilation = time.perf_counter() - started
    sizes: Any = compiled.memory_analysis()
    before = memory_in_use()
    _, peak = peak_of(lambda: compiled(start))
    timing = timed(lambda: compiled(start), repeats=repeats)
    planned = (sizes.temp_size_in_bytes + sizes.output_size_in_bytes) / MEBIBYTE
    return {
        "d": d,
        "num_members": m,
        "method": method,
        "seconds": round(timing.median, 5),
        "low": round(timing.low, 5),
        "high": round(timing.high, 5),
        "compile": round(compilation, 2),
        "peak_mib": round(peak - before, 1),
        "planned_mib": round(planned, 1),
    }


def ours(d: int, m: int) -> Generation:
    """A generation, members in chunks as large as those of ``tell``."""
    algorithm = nesht(num_members=m, sigma=SIGMA, optimizer=optax.adam(LEARNING_RATE))

    def generation(state: State) -> State:
        fitness = jax.lax.map(
            lambda i: score(algorithm.member(state, i)),
            jnp.arange(m),
            batch_size=min(m, max(1, CHUNK_ENTRIES // d)),
        )
        return algorithm.tell(state, fitness)[0]

    return algorithm.init(jax.random.key(0), jnp.zeros(d)), generation


def ours_tell(d: int, m: int) -> Generation:
    """An update from fitnesses that are given."""
    algorithm = nesht(num_members=m, sigma=SIGMA, optimizer=optax.adam(LEARNING_RATE))
    fitness = jax.random.normal(jax.random.key(1), (m,))
    state = algorithm.init(jax.random.key(0), jnp.zeros(d))
    return state, lambda state: algorithm.tell(state, fitness)[0]


def evosax(d: int, m: int) -> Generation:
    """A generation of its Open_ES; antithetic, and centered ranks, are its defaults."""
    from evosax.algorithms import Open_ES  # pyright: ignore[reportMissingImports]

    algorithm = Open_ES(
        population_size=m,
        solution=jnp.zeros(d),
        optimizer=optax.adam(LEARNING_RATE),
        std_schedule=optax.constant_schedule(SIGMA),
        # its default copies the best member into metrics, which nobody asks for here
        metrics_fn=lambda *arguments: {},
    )
    params = algorithm.default_params
    state = algorithm.init(jax.random.key(0), jnp.zeros(d), params)

    def generation(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        key, state = carry
        key, ask_key, tell_key = jax.random.split(key, 3)
        population, state = algorithm.ask(ask_key, state, params)
        fitness = -jax.vmap(score)(population)  # it minimizes
        return key, algorithm.tell(tell_key, population, fitness, state, params)[0]

    return (jax.random.key(1), state), generation


def score(member: jax.Array) -> jax.Array:
    """-‖x‖² of a member that lies in memory."""
    return -jnp.sum(jax.lax.optimization_barrier(member) ** 2)


def against(rows: list[Row], row: Row) -> Row:
    """Time and memory of evosax, measured first, over those of this method."""
    peers = [peer for peer in (*rows, row) if (peer["d"], peer["method"]) == (row["d"], "evosax")]
    columns = {"times_faster": "seconds", "times_smaller": "peak_mib"}
    return {
        name: round(peers[0][column] / row[column], 2) if peers and row[column] else ""
        for name, column in columns.items()
    }


def _options() -> argparse.Namespace:
    parser = command(__doc__, "update.csv")
    add, sizes = parser.add_argument, [1_000, 10_000, 100_000, 1_000_000]
    shown = " ".join(map(str, sizes))
    add("--sizes", type=int, nargs="+", default=sizes, help=f"numbers d of weights [{shown}]")
    add("--num_members", type=int, default=1024, help="members of an update [1024]")
    add(
        "--methods",
        nargs="+",
        default=METHODS,
        choices=METHODS,
        help=f"what is timed, evosax before what is compared with it [{' '.join(METHODS)}]",
    )
    add("--repeats", type=int, default=7, help="timed calls [7]")
    add("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
