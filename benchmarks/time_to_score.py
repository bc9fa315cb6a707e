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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
import plain_script
from process import fresh, installed
from table import unfinished, write

from nesht_jax.contract import Params
from nesht_jax.normalize import Moments, empty
from nesht_jax.run.advance import make_advance
from nesht_jax.run.build import build
from nesht_jax.run.config import Config, OptimizerConfig, PolicyConfig, ThresholdConfig
from nesht_jax.run.evaluate import make_evaluate_centre, make_play

PUBLISHED = {
    "members": 256,
    "sigma": 0.1,
    "learning_rate": 0.1,
    "mirrored": False,
    "common_random_numbers": False,
    "normalization": "observation",
}
"""Of the published MuJoCo code: one rollout a member, centred ranks, Adam."""

STEPS = {
    "mirrored": {"mirrored": True},
    "common": {"common_random_numbers": True},
    "members": {"members": 64},
    "running": {"normalization": "running"},
    "fewer": {"members": 16, "sigma": 0.2},
}
"""From the published settings to ours, each step on top of those before it."""

HOST = ("nesht", "script", "evotorch", *(f"nesht+{step}" for step in STEPS), "script+members")
TASKS = {
    # Brax's own strategy is always mirrored, so all start there
    "brax/hopper": ("nesht+mirrored", "brax_es+mirrored", "evosax+mirrored"),
    "envpool/InvertedDoublePendulum-v5": HOST,
    "envpool/Hopper-v5": HOST,
}
"""Contenders: a program, and the step up to which its settings go."""

TARGET = 500.0
"""Mean return that ends a run: the policy works, and many members still fall early."""


def main() -> None:
    options = _parse()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    rows = unfinished(options.out)
    done = {(row["task"], row["contender"], str(row["seed"])) for row in rows}
    for seed, task in itertools.product(options.seeds, options.tasks):
        for contender in contenders(task, options.contenders):
            case = {"task": task, "contender": contender, "seed": seed}
            if (task, contender, str(seed)) in done:
                continue
            if row := fresh(__file__, case | {"limit": options.limit, "target": options.target}):
                rows.append(row)
                write(options.out, rows)
    summarise(rows)


def contenders(task: str, asked: list[str] | None) -> list[str]:
    """Those of a task that are asked for and installed."""
    libraries = {"brax_es": "brax", "evosax": "evosax", "evotorch": "evotorch"}
    names = [name for name in TASKS[task] if not asked or name in asked]
    needs: dict[str, Any] = {name: libraries.get(name.partition("+")[0]) for name in names}
    present = {need for need in set(needs.values()) - {None} if installed(need)}
    return [name for name in names if needs[name] is None or needs[name] in present]


def settings_of(contender: str) -> dict:
    """The published settings with all steps up to the contender's."""
    _, _, last = contender.partition("+")
    settings = dict(PUBLISHED)
    for step in list(STEPS)[: list(STEPS).index(last) + 1] if last else []:
        settings |= STEPS[step]
    return settings


def measure(*, task: str, contender: str, seed: int, limit: float, target: float) -> dict:
    """One run."""
    settings = settings_of(contender)
    problem = peers.make_problem(config_of(task, seed, settings))
    judge = Judge(problem, limit=limit, target=target)
    programs = {
        "nesht": ours,
        "script": script,
        "brax_es": peers.brax_es,
        "evosax": peers.evosax,
        "evotorch": peers.evotorch,
    }
    try:
        programs[contender.partition("+")[0]](problem, judge)
    except Finished:
        pass
    return {"task": task, "contender": contender, "seed": seed, **judge.row, **settings}


def config_of(task: str, seed: int, settings: dict) -> Config:
    """Dense NES with a linear policy."""
    names = ("members", "sigma", "mirrored", "common_random_numbers")
    return Config(
        task=task,
        seed=seed,
        optimizer=OptimizerConfig(learning_rate=settings["learning_rate"]),
        policy=PolicyConfig(normalization=settings["normalization"]),
        threshold=ThresholdConfig(sparsity=0),
        **{name: settings[name] for name in names},
    )


class Finished(Exception):
    """The score is reached, or the limit."""


class Judge:
    """Looks at every centre and at the clock, which stands still meanwhile.

    Attributes:
        row: what is known of the run.
    """

    def __init__(self, problem: peers.Problem, *, limit: float, target: float) -> None:
        self._play = make_play(
            problem.config, problem.policy, episodes=20, seed=problem.config.seed + 2**16
        )
        (features, _) = problem.params["layer0"]["kernel"].shape
        none_yet = empty(features) if problem.policy.observes else None
        start = self._play(0, problem.params, none_yet).fitness.mean().item()
        self.row = {"target": target, "score_at_start": round(start, 1), "reached": False}
        self._limit, self._target = limit, target
        self._first, self._seconds, self._steps = 0.0, 0.0, 0
        self._since = time.perf_counter()

    def __call__(
        self, params: Params, *, generations: int, steps: int, moments: Moments | None = None
    ) -> None:
        """Called after every generation."""
        jax.block_until_ready(params)
        self._seconds += time.perf_counter() - self._since
        self._first = self._first or self._seconds
        score = self._play(generations, params, moments).fitness.mean().item()
        self.row |= {
            "score": round(score, 1),
            "reached": score >= self._target,
            "total_seconds": round(self._seconds, 2),
            "first_seconds": round(self._first, 2),
            "seconds": round(self._seconds - self._first, 2),
            "generations": generations,
            "environment_steps": steps,
            "steps_per_second": round(self._rate(steps)),
        }
        if score >= self._target or self._seconds > self._limit:
            raise Finished
        self._since = time.perf_counter()

    def _rate(self, steps: int) -> float:
        """Environment steps a second after the first generation."""
        if self._seconds == self._first:
            self._steps = steps
        return (steps - self._steps) / max(self._seconds - self._first, 1e-9)


def ours(problem: peers.Problem, judge: Judge) -> None:
    """Training as ``nesht train`` does it, without files and display."""
    setup = build(problem.config)
    centre = make_evaluate_centre(problem.config, setup.policy)
    advance = make_advance(setup, centre, due=lambda number: False)
    state, steps = setup.state, 0
    for number in itertools.count(1):
        state, rows = advance(state, range(number, number + 1))
        steps += rows[0]["steps"]
        judge(state.params, generations=number, steps=steps, moments=state.moments)


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
        for name in ("total_seconds", "seconds", "steps_per_second", "environment_steps"):
            values = sorted(float(r[name]) for r in reached)
            if values:
                line += f", {name} {statistics.median(values):g} ({values[0]:g} … {values[-1]:g})"
        print(line)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS)[:2], choices=list(TASKS))
    parser.add_argument("--contenders", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--target", type=float, default=TARGET)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a run's own clock")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/time_to_score.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
