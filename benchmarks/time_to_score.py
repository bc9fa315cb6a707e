"""Wall time of dense NES until the centre scores, against other libraries and a plain script.

    python benchmarks/time_to_score.py

A run ends when the mean of 20 episodes of its centre, played by one evaluator common to all,
reaches the target. The clock stands still meanwhile. ``first_seconds`` is the first generation with
set-up and compilation, ``seconds`` all that follow. Every run is a process of its own; those that
the CSV already holds, made with the same versions, are not made again.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peers
import plain_script
from process import fresh, installed
from table import read, write

from nesht_jax.contract import Params
from nesht_jax.run.build import build
from nesht_jax.run.config import Config, OptimizerConfig, ThresholdConfig
from nesht_jax.run.evaluate import CentreEvaluator
from nesht_jax.run.train import make_advance

PUBLISHED = {"members": 256, "sigma": 0.1, "learning_rate": 0.1}
"""Of the published MuJoCo code: one rollout a member, centred ranks, Adam."""

EQUAL = {
    # Brax's own strategy is always mirrored
    "brax/hopper": PUBLISHED | {"mirrored": True, "common_random_numbers": False},
    "envpool/Swimmer-v5": PUBLISHED | {"mirrored": False, "common_random_numbers": False},
}
OURS = {
    "nesht: mirrored": {"mirrored": True},
    "nesht: common random numbers": {"mirrored": True, "common_random_numbers": True},
}
"""From the published settings to our best, each on top of the one before."""

TARGETS = {"brax/hopper": (1000.0, 5), "envpool/Swimmer-v5": (300.0, 1)}
"""Mean return, and generations between two looks at the centre."""

CONTENDERS = {
    "brax/hopper": ("nesht", "brax_es", "evosax"),
    "envpool/Swimmer-v5": ("nesht", "script", "evotorch", *OURS),
}


def main() -> None:
    options = _parse()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    rows = read(options.out)
    done = {(row["task"], row["contender"], str(row["seed"])) for row in rows}
    for seed, task in itertools.product(options.seeds, options.tasks):
        for contender in contenders(task, options.contenders):
            case = {"task": task, "contender": contender, "seed": seed}
            if (task, contender, str(seed)) in done:
                continue
            if row := fresh(__file__, case | {"limit": options.limit}):
                rows.append(row)
                write(options.out, rows)
    summarise(rows)


def contenders(task: str, asked: list[str] | None) -> list[str]:
    """Those of a task that are asked for and installed."""
    libraries = {"brax_es": "brax", "evosax": "evosax", "evotorch": "evotorch"}
    return [
        name
        for name in CONTENDERS[task]
        if (not asked or name in asked) and (name not in libraries or installed(libraries[name]))
    ]


def measure(*, task: str, contender: str, seed: int, limit: float) -> dict:
    """One run."""
    settings = EQUAL[task] | OURS.get(contender, {})
    config = Config(
        task=task,
        members=settings["members"],
        sigma=settings["sigma"],
        optimizer=OptimizerConfig(learning_rate=settings["learning_rate"]),
        mirrored=settings["mirrored"],
        common_random_numbers=settings["common_random_numbers"],
        threshold=ThresholdConfig(sparsity=0),
        seed=seed,
    )
    problem = peers.make_problem(config)
    judge = Judge(problem, limit)
    run = {"script": script, "brax_es": peers.brax_es, "evosax": peers.evosax}
    run["evotorch"] = peers.evotorch
    try:
        run.get(contender, ours)(problem, judge)
    except Finished:
        pass
    return {"task": task, "contender": contender, "seed": seed, **judge.row, **settings}


class Finished(Exception):
    """The score is reached, or the limit."""


class Judge:
    """Looks at the centre now and then, and at the clock, which stands still meanwhile.

    Attributes:
        row: what is known of the run.
    """

    def __init__(self, problem: peers.Problem, limit: float) -> None:
        self._target, self._every = TARGETS[problem.config.task]
        self._evaluate = CentreEvaluator(
            problem.config, problem.policy, episodes=20, seed=problem.config.seed + 2**16
        )
        start = self._evaluate(0, problem.params, None).mean
        self.row = {"target": self._target, "score_at_start": round(start, 1), "reached": False}
        self._limit, self._first, self._seconds, self._calls = limit, 0.0, 0.0, 0
        self._since = time.perf_counter()

    def __call__(self, params: Params, *, generations: int, steps: int) -> None:
        """Called after every generation."""
        jax.block_until_ready(params)
        self._seconds += time.perf_counter() - self._since
        self._first = self._first or self._seconds
        late = self._seconds > self._limit
        if generations % self._every == 0 or late:
            self._calls += 1
            score = self._evaluate(self._calls, params, None).mean
            self.row |= {
                "score": round(score, 1),
                "reached": score >= self._target,
                "total_seconds": round(self._seconds, 2),
                "first_seconds": round(self._first, 2),
                "seconds": round(self._seconds - self._first, 2),
                "generations": generations,
                "environment_steps": steps,
            }
            if score >= self._target or late:
                raise Finished
        self._since = time.perf_counter()


def ours(problem: peers.Problem, judge: Judge) -> None:
    """Training as ``nesht train`` does it, without files and display."""
    setup = build(problem.config)
    advance = make_advance(setup)
    state, steps = setup.state, 0
    while True:
        state, rows = advance(state, 1)
        steps += rows[0]["steps"]
        judge(state.params, generations=int(state.generation), steps=steps)


def script(problem: peers.Problem, judge: Judge) -> None:
    """``plain_script.py``."""
    config, layer = problem.config, problem.params["layer0"]
    settings = plain_script.Settings(
        problem.name,
        config.members,
        config.sigma,
        config.optimizer.learning_rate,
        config.mirrored,
        config.common_random_numbers,
        problem.horizon,
        config.seed,
    )
    search = plain_script.generations(
        settings, np.asarray(layer["kernel"]), np.asarray(layer["bias"])
    )
    for number, (kernel, bias, steps) in enumerate(search, 1):
        weights = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
        judge({"layer0": weights}, generations=number, steps=steps)


def summarise(rows: list[dict]) -> None:
    """A line a contender: median over seeds, and how many times slower than ``nesht``."""
    for task, contender in dict.fromkeys((row["task"], row["contender"]) for row in rows):
        some = [r for r in rows if (r["task"], r["contender"]) == (task, contender)]
        reached = [r for r in some if str(r["reached"]) == "True"]
        line = f"{task} {contender}: reached {len(reached)} of {len(some)}"
        for name in ("total_seconds", "seconds", "generations", "environment_steps"):
            values = sorted(float(r[name]) for r in reached)
            if values:
                line += f", {name} {statistics.median(values):g} ({values[0]:g} … {values[-1]:g})"
        print(line)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--contenders", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a run's own clock")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/time_to_score.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
