"""Peak memory of one generation of many members with a large policy.

    python benchmarks/memory.py

Every case is a process of its own; ``above_mib`` is its peak over that of the same process with a
tiny policy, which has as many members, the simulators, the libraries and the compiler in it.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import jax
from process import fresh
from table import write

from nesht_jax.nesht import make_generation
from nesht_jax.run.build import build
from nesht_jax.run.config import Config, OptimizerConfig, PolicyConfig, ThresholdConfig


def main() -> None:
    options = _parse()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    rows = []
    for task in options.tasks:
        for rank in (None, 1):
            case = {"task": task, "rank": rank} | {
                name: getattr(options, name) for name in ("members", "horizon")
            }
            tiny, large = (fresh(__file__, case | {"width": w}) for w in (2, options.width))
            if tiny and large:
                large["above_mib"] = large["peak_mib"] - tiny["peak_mib"]
                rows.append(large)
                write(options.out, rows)


def measure(*, task: str, members: int, width: int, rank: int | None, horizon: int) -> dict:
    """One generation, in this process."""
    config = Config(
        task=task,
        members=members,
        rank=rank,
        horizon=horizon,
        optimizer=OptimizerConfig(name="sgd"),
        threshold=ThresholdConfig(sparsity=0.9, every=1),
        policy=PolicyConfig(hidden=(width, width)),
    )
    setup = build(config)
    algorithm = setup.algorithm._replace(tell=jax.jit(setup.algorithm.tell))
    host = hasattr(setup.evaluate, "seek")
    evaluate = setup.evaluate if host else jax.jit(setup.evaluate)
    started = time.perf_counter()
    state, (_, steps, _) = make_generation(algorithm, evaluate)(setup.state)
    jax.block_until_ready(state.params)
    return {
        "task": task,
        "rank": rank or "full",
        "members": members,
        "d": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "steps": int(steps),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = ["envpool/Hopper-v5", "brax/hopper"]
    parser.add_argument("--tasks", nargs="+", default=tasks)
    parser.add_argument("--members", type=int, default=4096)
    parser.add_argument("--width", type=int, default=1300, help="of two hidden layers")
    parser.add_argument("--horizon", type=int, default=5)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/memory.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
