"""Peak memory of one generation of many members with a large policy.

    python benchmarks/memory.py

Every case is a process of its own; ``above_mib`` is its peak over that of the same process with a
tiny policy, which has as many members, the simulators, the libraries and the compiler in it.
"""

import argparse
import json
import time

import jax
from loops import Training
from measuring import Row, Table, command, fresh, peak_memory, task_name

from nesht_jax.run.config import Config
from nesht_jax.run.sections import AlgorithmConfig, OptimizerConfig, PolicyConfig, SparsityConfig


def main() -> None:
    """Writes the table, or prints the row of one case."""
    options = _options()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    table = Table(options.out)
    sizes = {"num_members": options.num_members, "horizon": options.horizon}
    for task in options.tasks:
        for rank in (None, 1):
            case = {"task": task, "rank": rank} | sizes
            tiny, large = (fresh(__file__, case | {"width": w}) for w in (2, options.width))
            if tiny and large:
                table.add(large | {"above_mib": large["peak_mib"] - tiny["peak_mib"]})


def measure(*, task: str, num_members: int, width: int, rank: int | None, horizon: int) -> Row:
    """Does one generation, in this process."""
    config = Config(
        task=task,
        horizon=horizon,
        algorithm=AlgorithmConfig(num_members=num_members, rank=rank),
        sparsity=SparsityConfig(every=1),
        policy=PolicyConfig(hidden=(width, width)),
        optimizer=OptimizerConfig(name="sgd"),
    )
    training = Training(config)
    started = time.perf_counter()
    row = training.generation()
    jax.block_until_ready(training.state.params)
    return {
        "task": task,
        "rank": rank or "full",
        "num_members": num_members,
        "d": sum(leaf.size for leaf in jax.tree.leaves(training.state.params)),
        "steps": row.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(peak_memory()),
    }


def _options() -> argparse.Namespace:
    parser = command(__doc__, "memory.csv")
    add, tasks = parser.add_argument, ["envpool/Hopper-v5", "brax/hopper"]
    add("--tasks", type=task_name, nargs="+", default=tasks, help=f"tasks [{' '.join(tasks)}]")
    add("--num_members", type=int, default=4096, help="members of the generation [4096]")
    add("--width", type=int, default=1300, help="width of the two hidden layers [1300]")
    add("--horizon", type=int, default=5, help="steps after which episodes are cut [5]")
    add("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
