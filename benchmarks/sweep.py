"""What runs of a sweep gain side by side: the seeds of one task, against one after another.

    nesht bench sweep

Each way is measured in a process of its own, from no compiled program to the last run folder:
``one_by_one`` trains every seed by ``nesht_jax.train``, ``side_by_side`` all by one program.
``cpu_seconds`` are those of all cores, which other programs on the machine change less than
``seconds``; ``generation_ms`` is the time of a generation of all seeds, compilation not counted.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from measuring import Row, Table, command, fresh, task_name
from rich.console import Console

from nesht_jax import Config, train
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig, SparsityConfig
from nesht_jax.run.sweep import batches, planned, trained_together

WAYS = ("one_by_one", "side_by_side")


def main() -> None:
    """Writes the table."""
    options = _options()
    if options.case:
        return print(measure(**options.case))
    table = Table(options.out)
    for task in options.tasks:
        for seeds in options.seeds:
            for way in WAYS:
                case = {"task": task, "seeds": seeds, "way": way}
                case |= {"generations": options.generations}
                if (row := fresh(__file__, case)) is not None:
                    table.add(row)


def measure(*, task: str, seeds: int, way: str, generations: int) -> str:
    """Trains the seeds of a task in one way; gives the row as JSON."""
    config = Config(
        task=task,
        algorithm=AlgorithmConfig(sigma=0.1),
        sparsity=SparsityConfig(fraction=0.2),
        evaluation=EvaluationConfig(every=generations),
        generations=generations,
        checkpoint_every=generations,
    )
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = planned([config], seeds=range(seeds), folder=Path(folder))
        started, cpu = time.perf_counter(), time.process_time()
        if way == "side_by_side":
            done = [trained_together(batch, console=quiet) for batch in batches(runs)]
        else:
            done = [[train(run, console=quiet)] for run in runs]
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    # a batch has the same times in all of its runs; the first calls hold the compilation
    later = [
        statistics.median(row.seconds for row in batch[0].rows[generations // 2 :])
        for batch in done
    ]
    steps = sum(row.steps for batch in done for result in batch for row in result.rows)
    row: Row = {"task": task, "seeds": seeds, "way": way, "generations": generations}
    row |= {"steps": steps, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
    row["generation_ms"] = round(1e3 * sum(later), 2)
    return json.dumps(row)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "sweep.csv")
    add = parser.add_argument
    tasks = ["gymnax/CartPole-v1", "probe/countdown"]
    add("--tasks", type=task_name, nargs="+", default=tasks, help=f"tasks [{' '.join(tasks)}]")
    add("--seeds", type=int, nargs="+", default=[8], help="numbers of seeds [8]")
    add("--generations", type=int, default=100, help="generations of a run [100]")
    add("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
