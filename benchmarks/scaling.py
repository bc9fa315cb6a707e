"""Time and memory of a generation by population size, and where one suite overtakes the other.

    python benchmarks/scaling.py

The first generations of random policies on the same Gymnasium task: stepped by envpool, on the
host, and by MJX, in JAX. On a CPU their rates tell which to use; on an accelerator MJX overtakes
where its row is the faster one. Every row is a process of its own.
"""

import argparse
import itertools
import json
import time
from statistics import median

import jax
from loops import Training
from measuring import (
    Row,
    Table,
    command,
    fresh,
    memory_available,
    memory_in_use,
    peak_of,
    task_name,
)

from nesht_jax.run.config import Config
from nesht_jax.run.sections import AlgorithmConfig


def main() -> None:
    """Writes the table, or prints the row of one case."""
    options = _options()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    table = Table(options.out)
    common = {name: getattr(options, name) for name in ("horizon", "distractors", "seconds")}
    for num_members, task in itertools.product(options.num_members, options.tasks):
        if not fits(table.rows, task, num_members):
            continue
        if row := fresh(__file__, common | {"task": task, "num_members": num_members}):
            table.add(row)
    print(crossover(table.rows))


def measure(*, task: str, num_members: int, horizon: int, distractors: int, seconds: float) -> Row:
    """Times generations. The memory is that of generation 2 and the simulators, over imports."""
    before = memory_in_use()
    algorithm = AlgorithmConfig(num_members=num_members)
    training = Training(
        Config(task=task, distractors=distractors, horizon=horizon, algorithm=algorithm)
    )
    started = time.perf_counter()
    training.generation()
    first = time.perf_counter() - started

    times, peaks, steps, simulated = [], [], 0, 0
    while sum(times) < seconds or not times:
        started = time.perf_counter()
        row, peak = peak_of(training.generation)
        times.append(time.perf_counter() - started)
        peaks.append(peak - before)
        steps, simulated = steps + row.steps, simulated + row.simulated_steps
    return {
        "task": task,
        "num_members": num_members,
        "horizon": horizon,
        "distractors": distractors,
        "generations": len(times),
        "seconds": round(median(times), 4),
        "low": round(min(times), 4),
        "high": round(max(times), 4),
        "first_seconds": round(first, 2),
        "useful_steps_per_second": round(steps / sum(times)),
        "useful_share": round(steps / simulated, 3),
        "peak_mib": round(peaks[0], 1),
    }


def fits(rows: list[Row], task: str, num_members: int) -> bool:
    """Whether the host has the memory that the largest size so far lets expect."""
    known = [row["peak_mib"] / row["num_members"] for row in rows if row["task"] == task]
    needed = known[-1] * num_members if known else 0.0
    if jax.default_backend() != "cpu" and not task.startswith("envpool/"):
        return True
    if needed > 0.8 * memory_available():
        gibibytes = needed / 1024
        print(f"{task} with {num_members} members needs some {gibibytes:.0f} GiB, and is left out")
        return False
    return True


def crossover(rows: list[Row]) -> str:
    """Tells at which sizes MJX is the faster suite."""
    rates = {
        (row["num_members"], row["task"].split("/")[0]): row["useful_steps_per_second"]
        for row in rows
    }
    sizes = sorted({size for size, _ in rates})
    both = [m for m in sizes if (m, "mjx") in rates and (m, "envpool") in rates]
    faster = [m for m in both if rates[m, "mjx"] > rates[m, "envpool"]]
    if not faster:
        return f"envpool is the faster suite at every size measured: {both}"
    return f"mjx is the faster suite at {faster} members of {both}"


def _options() -> argparse.Namespace:
    parser = command(__doc__, "scaling.csv")
    add, tasks = parser.add_argument, ["envpool/Hopper-v5", "mjx/hopper"]
    sizes = [64, 256, 1024, 4096, 16384, 65536]
    shown = " ".join(map(str, sizes))
    add(
        "--tasks",
        type=task_name,
        nargs="+",
        default=tasks,
        help=f"one of envpool, one of mjx [{' '.join(tasks)}]",
    )
    add("--num_members", type=int, nargs="+", default=sizes, help=f"population sizes [{shown}]")
    add("--horizon", type=int, default=10, help="steps after which episodes are cut [10]")
    add("--distractors", type=int, default=5, help="number N of distractors [5]")
    add("--seconds", type=float, default=10.0, help="seconds of generations, at least one [10]")
    add("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
