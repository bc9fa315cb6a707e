"""What a device has to do, and what goes between devices, as they become more.

    python benchmarks/devices.py

Every row is a process of its own with so many devices, a share of the population each; on a CPU
they are forced, and share its cores, so that seconds say little beyond the number of cores. FLOPs
and bytes are those of the compiled program. Strong: the same population on more devices; weak: as
many members on each.
"""

import argparse
import json
import os
import re
import time
from statistics import median

import jax
import numpy as np
from loops import Training
from measuring import Row, Table, command, fresh, task_name

from nesht_jax.envs.compiler import compiler_options
from nesht_jax.es.nes import make_generation
from nesht_jax.run.build import build, build_training
from nesht_jax.run.config import Config
from nesht_jax.run.generations import strategy
from nesht_jax.run.sections import AlgorithmConfig

KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
SIZES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


def main() -> None:
    """Writes the table, or prints the row of one case."""
    options = _options()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    table, forced = Table(options.out), os.environ.get("XLA_FLAGS", "")
    for task in options.tasks:
        for kind in ("strong", "weak"):
            for devices in options.devices:
                os.environ["XLA_FLAGS"] = (
                    f"{forced} --xla_force_host_platform_device_count={devices}"
                )
                members = options.num_members * (devices if kind == "weak" else 1)
                case = {"task": task, "members": members, "seconds": options.seconds}
                if row := fresh(__file__, case):
                    table.add({"kind": kind} | row)


def measure(*, task: str, members: int, seconds: float) -> Row:
    """Compiles a generation, and times generations."""
    algorithm = AlgorithmConfig(num_members=members)
    config = Config(task=task, distractors=5, horizon=200, algorithm=algorithm)
    experiment = build(config)
    evaluate = build_training(experiment.config, experiment)
    generation = make_generation(strategy(experiment), evaluate)
    compiled = jax.jit(generation, compiler_options=compiler_options()).lower(experiment.state)
    program = compiled.compile()
    cost = program.cost_analysis() or {}
    training, times, useful, simulated = Training(config), [], 0, 0
    training.generation()
    while sum(times) < seconds or not times:
        started = time.perf_counter()
        row = training.generation()
        times.append(time.perf_counter() - started)
        useful, simulated = useful + row.steps, simulated + row.simulated_steps
    return {
        "task": task,
        "devices": jax.device_count(),
        "shares": experiment.config.shares,
        "members": members,
        "megaflops_of_a_device": round(cost["flops"] / 1e6, 3),
        "bytes_between": moved(program.as_text() or ""),
        "useful_share": round(useful / simulated, 3),
        "seconds": round(median(times), 4),
        "steps_per_second": round(useful / sum(times)),
    }


def moved(text: str) -> int:
    """Bytes of what a device receives from others in a program whose loops hold no collective."""
    total = 0
    for shapes in re.findall(rf"= (\S+|\(.*?\)) (?:{KINDS})(?:-start)?\(", text):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            total += int(np.prod([int(n) for n in sizes.split(",") if n])) * SIZES[dtype]
    return total


def _options() -> argparse.Namespace:
    parser = command(__doc__, "devices.csv")
    add = parser.add_argument
    tasks = ["gymnax/CartPole-v1", "probe/countdown"]
    add("--tasks", type=task_name, nargs="+", default=tasks, help="tasks of suites in JAX [two]")
    add("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="devices [1 2 4 8]")
    add("--num_members", type=int, default=512, help="members, if weak of a device [512]")
    add("--seconds", type=float, default=3.0, help="seconds to time [3]")
    add("--case", type=json.loads, help="one case as JSON: its row is printed, no table written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
