"""Useful training steps per second over bare envpool stepping with the same threads.

Training and the bare loop alternate in one process, so that a noisy machine slows both: read the
ratio, not the rates. The bare loop steps as many environments as there are members, with zero
actions, and lets envpool reset them.

    python benchmarks/ceiling.py
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import envpool
import jax
import numpy as np
from versions import versions

from nesht_jax.nesht import make_generation
from nesht_jax.run.build import build
from nesht_jax.run.config import Config, PolicyConfig


def main() -> None:
    options = _parse()
    rows = []
    for task in options.tasks:
        for noise in options.noise:
            rows.append(measure(task, noise, options))
            print(rows[-1], flush=True)
    with options.out.open("w", newline="") as file:
        file.write(f"# {versions()}\n")
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def measure(task: str, noise: int, options: argparse.Namespace) -> dict:
    """Median and spread of the ratio over alternating rounds."""
    config = Config(
        task=f"envpool/{task}",
        noise=noise,
        members=options.members,
        task_options={"num_threads": options.threads},
        policy=PolicyConfig(hidden=tuple(options.hidden)),
    )
    setup = build(config)
    algorithm = setup.algorithm._replace(tell=jax.jit(setup.algorithm.tell))
    generation = make_generation(algorithm, setup.evaluate)
    started = time.perf_counter()
    state = setup.state
    for _ in range(options.warm_up):
        state, _ = generation(state)
    warm_up = time.perf_counter() - started

    pool = envpool.make(
        task,
        env_type="gymnasium",
        num_envs=options.members,
        num_threads=options.threads,
        seed=0,
    )
    pool.reset()
    still = np.zeros((options.members, *pool.action_space.shape))
    training, bare = [], []
    for _ in range(options.rounds):
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < options.seconds:
            state, (_, useful, _) = generation(state)
            steps += int(useful)
        training.append(steps / (time.perf_counter() - started))
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < options.seconds:
            pool.step(still)
            steps += options.members
        bare.append(steps / (time.perf_counter() - started))
    ratios = [t / b for t, b in zip(training, bare, strict=True)]
    return {
        "task": task,
        "noise": noise,
        "hidden": "x".join(map(str, options.hidden)) or "linear",
        "members": options.members,
        "threads": options.threads,
        "generations_before": options.warm_up,
        "warm_up_seconds": round(warm_up, 1),
        "useful_steps_per_second": round(statistics.median(training)),
        "bare_steps_per_second": round(statistics.median(bare)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["Hopper-v5", "HalfCheetah-v5"])
    parser.add_argument("--noise", type=int, nargs="+", default=[5])
    parser.add_argument("--hidden", type=int, nargs="*", default=[])
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=10, help="generations before measuring")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each half of a round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ceiling.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
