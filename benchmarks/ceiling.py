"""Useful training steps over bare steps of the same simulator, with zero and random actions.

    python benchmarks/ceiling.py --tasks envpool/HalfCheetah-v5 --distractors 5 20

Training and the bare loop alternate in one process, so that a noisy machine slows both: read the
ratio, not the rates. envpool steps as many environments as there are members, on the same threads,
and resets them itself; it waits for each step, where training overlaps the policy with it, so the
ratio may exceed 1. A simulator written in JAX steps as many as training does at once, in a scan.

``distractor_share`` is the part of training in which distractors are drawn in envpool, on one
thread, while its simulators have the others.
"""

import argparse
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from loops import Training, pool, random_actions, scan, usual_num_envs, zero_actions
from measuring import Row, Table, command, task_name

from nesht_jax.policy.convolution import CONVOLUTIONS
from nesht_jax.run.build import Experiment, build
from nesht_jax.run.config import Config
from nesht_jax.run.sections import AlgorithmConfig, PolicyConfig
from nesht_jax.types import Task


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    for task, distractors in itertools.product(options.tasks, options.distractors):
        table.add(measure(config_of(task, distractors, options), options))


def config_of(task: str, distractors: int, options: argparse.Namespace) -> Config:
    """The training that is timed."""
    has_images = options.convolutions != "none"
    return Config(
        task=task,
        task_options={"num_threads": options.threads} if task.startswith("envpool/") else {},
        distractors=distractors,
        horizon=options.horizon,
        algorithm=AlgorithmConfig(num_members=options.num_members, rank=options.rank),
        policy=PolicyConfig(
            convolutions=options.convolutions,
            hidden=tuple(options.hidden),
            activation="relu" if has_images else "tanh",
            normalization="none" if has_images else "observation",
        ),
    )


def measure(config: Config, options: argparse.Namespace) -> Row:
    """Median and spread of the ratio over rounds in which the loops take turns."""
    started = time.perf_counter()
    experiment, draws = _watched(build(config))
    task, host = experiment.task, draws is not None
    training = Stopwatch(Training(config, experiment).generation)
    for _ in range(options.warm_up):
        training()
    warm_up = time.perf_counter() - started
    for watch in (draws, training):
        if watch:
            watch.seconds = 0.0
    num_envs = options.num_members if host else usual_num_envs(task, options.num_members)
    loops: dict[str, Callable[[], int]] = {"training": lambda: training().steps}
    for kind, make_actions in (("zero", zero_actions), ("random", random_actions)):
        loops[kind] = bare(task, make_actions(task, num_envs), options.threads)
    rates = alternate(loops, options.rounds, options.seconds)
    median = {name: statistics.median(found) for name, found in rates.items()}
    ratios = [t / b for t, b in zip(rates["training"], rates["zero"], strict=True)]
    moving = [t / b for t, b in zip(rates["training"], rates["random"], strict=True)]
    return {
        "task": config.task,
        "distractors": config.distractors,
        "convolutions": options.convolutions,
        "hidden": "x".join(map(str, options.hidden)) or "linear",
        "rank": options.rank or "full",
        "num_members": options.num_members,
        "num_envs": num_envs,
        "generations_before": options.warm_up,
        "warm_up_seconds": round(warm_up, 1),
        "useful_steps_per_second": round(median["training"]),
        "frames_per_second": round(task.frame_skip * median["training"]) if task.frame_skip else "",
        "bare_steps_per_second": round(median["zero"]),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "bare_random_actions_per_second": round(median["random"]),
        "ratio_random_actions": round(statistics.median(moving), 3),
        "distractor_share": round(draws.seconds / training.seconds, 3) if draws else "",
    }


def bare(task: Task, actions: Any, threads: int) -> Callable[[], int]:
    """The simulator of a task alone."""
    return pool(task, actions, threads) if _is_pool(task) else scan(task, actions)


class Stopwatch:
    """A function, and the seconds that were spent in it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        made = self.call(*arguments)
        self.seconds += time.perf_counter() - started
        return made


def _is_pool(task: Task) -> bool:
    return task.name.startswith("envpool/")


def _watched(experiment: Experiment) -> tuple[Experiment, Stopwatch | None]:
    """The experiment, and the clock of its distractors where they are drawn on the host."""
    task = experiment.task
    if not _is_pool(task):
        return experiment, None
    draws = Stopwatch(task.simulator.distractors)
    simulator = task.simulator._replace(distractors=draws)
    return experiment._replace(task=dataclasses.replace(task, simulator=simulator)), draws


def alternate(
    loops: dict[str, Callable[[], int]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Steps per second of loops that take turns, some seconds each, a rate for every round."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                steps += loop()
            rates[name].append(steps / (time.perf_counter() - started))
    return rates


def _options() -> argparse.Namespace:
    parser = command(__doc__, "ceiling.csv")
    add, tasks = parser.add_argument, ["envpool/Hopper-v5", "envpool/HalfCheetah-v5"]
    add("--tasks", type=task_name, nargs="+", default=tasks, help=f"tasks [{' '.join(tasks)}]")
    add("--distractors", type=int, nargs="+", default=[5], help="numbers N of distractors [5]")
    add("--hidden", type=int, nargs="*", default=[], help="widths of hidden layers; none is linear")
    add("--convolutions", default="none", choices=list(CONVOLUTIONS), help="layers before [none]")
    add("--rank", type=int, help="rank of the perturbations; full without it")
    add("--num_members", type=int, default=256, help="members of a generation [256]")
    add("--horizon", type=int, help="steps after which episodes are cut; else the task's own")
    add("--threads", type=int, default=2, help="threads of envpool, in both loops [2]")
    add("--warm_up", type=int, default=10, help="generations before measuring [10]")
    add("--rounds", type=int, default=5, help="rounds in which each loop has a turn [5]")
    add("--seconds", type=float, default=3.0, help="seconds of a turn [3]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
