"""Time and memory of a generation by population size, and where one room overtakes the other.

    python benchmarks/scaling.py

The first generations of random policies on the same Gymnasium task: stepped by envpool, on the
host, and by MJX, in JAX. On a CPU their rates tell which to use; on an accelerator MJX overtakes
where its row is the faster one. Every row is a process of its own.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from statistics import median

import jax
from process import fresh, memory_available, memory_in_use, peak_of
from table import write

from nesht_jax.run.advance import make_advance
from nesht_jax.run.build import build
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import make_evaluate_centre


def main() -> None:
    options = _parse()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    rows = []
    for members, task in itertools.product(options.members, options.tasks):
        if not fits(rows, task, members):
            continue
        case = {name: getattr(options, name) for name in ("horizon", "noise", "seconds")}
        if row := fresh(__file__, case | {"task": task, "members": members}):
            rows.append(row)
            write(options.out, rows)
    print(crossover(rows))


def measure(*, task: str, members: int, horizon: int, noise: int, seconds: float) -> dict:
    """One row. The memory is that of generation 2 and the simulators, over what imports take."""
    before = memory_in_use()
    config = Config(task=task, noise=noise, members=members, horizon=horizon)
    setup = build(config)
    centre = make_evaluate_centre(config, setup.policy)
    advance = make_advance(setup, centre, due=lambda number: False)
    started = time.perf_counter()
    state, _ = advance(setup.state, range(1, 2))
    first = time.perf_counter() - started

    times, peaks, steps, simulated = [], [], 0, 0
    while sum(times) < seconds or not times:
        started = time.perf_counter()
        number = 2 + len(times)
        (state, (row,)), peak = peak_of(
            lambda state=state, number=number: advance(state, range(number, number + 1))
        )
        times.append(time.perf_counter() - started)
        peaks.append(peak - before)
        steps, simulated = steps + row["steps"], simulated + row["simulated"]
    return {
        "task": task,
        "members": members,
        "horizon": horizon,
        "noise": noise,
        "generations": len(times),
        "seconds": round(median(times), 4),
        "low": round(min(times), 4),
        "high": round(max(times), 4),
        "first_seconds": round(first, 2),
        "useful_steps_per_second": round(steps / sum(times)),
        "useful_share": round(steps / simulated, 3),
        "peak_mib": round(peaks[0], 1),
    }


def fits(rows: list[dict], task: str, members: int) -> bool:
    """Whether the host has the memory that the largest size so far lets expect."""
    known = [row["peak_mib"] / row["members"] for row in rows if row["task"] == task]
    needed = known[-1] * members if known else 0.0
    if jax.default_backend() != "cpu" and not task.startswith("envpool/"):
        return True
    if needed > 0.8 * memory_available():
        print(f"{task} with {members} members needs some {needed / 1024:.0f} GiB, and is left out")
        return False
    return True


def crossover(rows: list[dict]) -> str:
    """At which size the room in JAX is the faster one."""
    rates = {(r["members"], r["task"].split("/")[0]): r["useful_steps_per_second"] for r in rows}
    sizes = sorted({members for members, _ in rates})
    both = [m for m in sizes if (m, "mjx") in rates and (m, "envpool") in rates]
    faster = [m for m in both if rates[m, "mjx"] > rates[m, "envpool"]]
    if not faster:
        return f"envpool is the faster room at every size measured: {both}"
    return f"mjx is the faster room at {faster} members of {both}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks, sizes = ["envpool/Hopper-v5", "mjx/hopper"], [64, 256, 1024, 4096, 16384, 65536]
    parser.add_argument("--tasks", nargs="+", default=tasks, help="one of envpool, one of mjx")
    parser.add_argument("--members", type=int, nargs="+", default=sizes)
    parser.add_argument("--horizon", type=int, default=10, help="instead of the task's own")
    parser.add_argument("--noise", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of generations, at least one")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scaling.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
