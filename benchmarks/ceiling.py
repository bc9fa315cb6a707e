"""Useful training steps per second over bare stepping of the same simulator with zero actions, and
with random ones.

    python benchmarks/ceiling.py --tasks envpool/HalfCheetah-v5 --noise 5 20

Training and the bare loop alternate in one process, so that a noisy machine slows both: read the
ratio, not the rates. envpool steps as many environments as there are members, on the same threads,
and resets them itself; it waits for each step, where training overlaps the policy with it, so the
ratio may exceed 1. A simulator written in JAX steps as many as there are slots, in a scan.

``noise_share`` is the part of training in which envpool's room draws noise features, on one
thread, while its simulators have the others.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bare import pool, random_actions, scan, zero_actions
from share import usual_slots
from table import write

from nesht_jax.envs import task_spec
from nesht_jax.envs.host import normals
from nesht_jax.network import CONVOLUTIONS
from nesht_jax.run.advance import make_advance
from nesht_jax.run.build import build
from nesht_jax.run.config import Config, PolicyConfig
from nesht_jax.run.evaluate import make_evaluate_centre


def main() -> None:
    options = _parse()
    rows = []
    for task in options.tasks:
        for noise in options.noise:
            rows.append(measure(task, noise, options))
            print(rows[-1], flush=True)
            write(options.out, rows)


def measure(task: str, noise: int, options: argparse.Namespace) -> dict:
    """Median and spread of the ratio over alternating rounds."""
    host = task.startswith("envpool/")
    config = Config(
        task=task,
        noise=noise,
        members=options.members,
        horizon=options.horizon,
        task_options={"num_threads": options.threads} if host else {},
        rank=options.rank,
        policy=PolicyConfig(
            convolutions=options.convolutions,
            hidden=tuple(options.hidden),
            activation="relu" if options.convolutions != "none" else "tanh",
            normalization="none" if options.convolutions != "none" else "observation",
        ),
    )
    started, draws = time.perf_counter(), Stopwatch(normals)
    with patch("nesht_jax.envs.envpool_tasks.normals", draws):
        train = Stopwatch(training(config, options.warm_up))
    warm_up, draws.seconds = time.perf_counter() - started, 0.0
    loops: dict[str, Callable[[], int]] = {"training": train}
    slots = options.members if host else usual_slots(task, options.members)
    for kind, make_actions in (("zero", zero_actions), ("random", random_actions)):
        actions = make_actions(task, slots)
        loops[kind] = pool(task, actions, options.threads) if host else scan(task, actions)
    rates = alternate(loops, options)
    ratios = [t / b for t, b in zip(rates["training"], rates["zero"], strict=True)]
    frame_skip = task_spec(task).frame_skip
    moving = [t / b for t, b in zip(rates["training"], rates["random"], strict=True)]
    return {
        "task": task,
        "noise": noise,
        "convolutions": options.convolutions,
        "hidden": "x".join(map(str, options.hidden)) or "linear",
        "rank": options.rank or "full",
        "members": options.members,
        "batch": slots,
        "generations_before": options.warm_up,
        "warm_up_seconds": round(warm_up, 1),
        "useful_steps_per_second": round(statistics.median(rates["training"])),
        "frames_per_second": round(frame_skip * statistics.median(rates["training"]))
        if frame_skip
        else "",
        "bare_steps_per_second": round(statistics.median(rates["zero"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "bare_random_actions_per_second": round(statistics.median(rates["random"])),
        "ratio_random_actions": round(statistics.median(moving), 3),
        "noise_share": round(draws.seconds / train.seconds, 3) if host else "",
    }


def training(config: Config, warm_up: int) -> Callable[[], int]:
    """A generation, as steps; ``warm_up`` of them have been done."""
    setup = build(config)
    centre = make_evaluate_centre(config, setup.policy)
    advance = make_advance(setup, centre, due=lambda number: False)
    state, _ = advance(setup.state, range(1, 1 + warm_up))
    numbers = itertools.count(1 + warm_up)

    def train() -> int:
        nonlocal state
        number = next(numbers)
        state, rows = advance(state, range(number, number + 1))
        return rows[0]["steps"]

    return train


class Stopwatch:
    """A function, and the seconds spent in it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        made = self.call(*arguments)
        self.seconds += time.perf_counter() - started
        return made


def alternate(
    loops: dict[str, Callable[[], int]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Steps per second of loops that take turns."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < options.seconds:
                steps += loop()
            rates[name].append(steps / (time.perf_counter() - started))
    return rates


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = ["envpool/Hopper-v5", "envpool/HalfCheetah-v5"]
    parser.add_argument("--tasks", nargs="+", default=tasks)
    parser.add_argument("--noise", type=int, nargs="+", default=[5])
    parser.add_argument("--hidden", type=int, nargs="*", default=[])
    parser.add_argument("--convolutions", default="none", choices=list(CONVOLUTIONS))
    parser.add_argument("--rank", type=int, help="of the perturbations; full without it")
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--horizon", type=int, help="instead of the task's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=10, help="generations before measuring")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each part of a round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ceiling.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
