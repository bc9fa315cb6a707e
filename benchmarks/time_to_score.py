"""Wall time of dense NES until the center scores, against other libraries and a plain script.

    python benchmarks/time_to_score.py

A run ends when the mean of 20 episodes of its center, played by one evaluator common to all,
reaches the target. The clock stands still meanwhile. ``first_seconds`` is the first generation with
set-up and compilation, ``seconds`` all that follow. Every run is a process of its own; those that
the CSV already holds, made with the same versions, are not made again.
"""

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
import plain_script
from loops import Training
from measuring import Row, Table, command, fresh, installed, unfinished

from nesht_jax.envs.host import cores
from nesht_jax.report.statistics import score
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import make_play
from nesht_jax.run.sections import AlgorithmConfig, OptimizerConfig, PolicyConfig, SparsityConfig
from nesht_jax.types import Moments, Params

PUBLISHED = {
    "num_members": 256,
    "sigma": 0.1,
    "learning_rate": 0.1,
    "mirrored": False,
    "common_random_numbers": False,
    "normalization": "observation",
}
"""Settings of the published MuJoCo code: one episode a member, centered ranks, Adam."""

STEPS = {
    "mirrored": {"mirrored": True},
    "common": {"common_random_numbers": True},
    "members": {"num_members": 64},
    "running": {"normalization": "running"},
    "fewer": {"num_members": 16, "sigma": 0.2},
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
    """Writes the table, or prints the row of one case."""
    options = _options()
    if options.case:
        print(json.dumps(measure(**options.case)))
        return
    table = Table(options.out, unfinished(options.out))
    done = {(row["task"], row["contender"], str(row["seed"])) for row in table.rows}
    for seed, task in itertools.product(options.seeds, options.tasks):
        for contender in contenders(task, options.contenders):
            if (task, contender, str(seed)) in done:
                continue
            case = {"task": task, "contender": contender, "seed": seed}
            if row := fresh(__file__, case | {"limit": options.limit, "target": options.target}):
                table.add(row)
    summarize(table.rows)


def contenders(task: str, asked: list[str] | None) -> list[str]:
    """Lists those of a task that are asked for and installed."""
    libraries = {"brax_es": "brax", "evosax": "evosax", "evotorch": "evotorch"}
    names = [name for name in TASKS[task] if not asked or name in asked]
    needs: dict[str, Any] = {name: libraries.get(name.partition("+")[0]) for name in names}
    present = {need for need in set(needs.values()) - {None} if installed(need)}
    return [name for name in names if needs[name] is None or needs[name] in present]


def settings_of(contender: str) -> Row:
    """Gives the published settings with all steps up to the contender's."""
    _, _, last = contender.partition("+")
    settings: Row = dict(PUBLISHED)
    for step in list(STEPS)[: list(STEPS).index(last) + 1] if last else []:
        settings |= STEPS[step]
    return settings


def measure(*, task: str, contender: str, seed: int, limit: float, target: float) -> Row:
    """Makes one run."""
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


def config_of(task: str, seed: int, settings: Row) -> Config:
    """Makes dense NES with a linear policy."""
    names = ("num_members", "sigma", "mirrored", "common_random_numbers")
    return Config(
        task=task,
        seed=seed,
        algorithm=AlgorithmConfig(**{name: settings[name] for name in names}),
        sparsity=SparsityConfig(method="none"),
        policy=PolicyConfig(normalization=settings["normalization"], output="tanh"),
        optimizer=OptimizerConfig(learning_rate=settings["learning_rate"]),
    )


class Finished(Exception):
    """The score is reached, or the limit."""


class Judge:
    """Looks at every center and at the clock, which stands still meanwhile.

    Attributes:
        row: what is known of the run.
    """

    def __init__(self, problem: peers.Problem, *, limit: float, target: float) -> None:
        task, policy, seed = problem.task, problem.policy, problem.config.seed + 2**16
        self._play, _ = make_play(task, policy, episodes=20, seed=seed)
        none_yet = Moments.empty(task.num_features) if policy.uses_moments else None
        start = self._score(0, problem.params, none_yet)
        self.row: Row = {"target": target, "score_at_start": round(start, 1), "reached": False}
        self._limit, self._target = limit, target
        self._first, self._seconds, self._steps = 0.0, 0.0, 0
        self._since = time.perf_counter()

    def __call__(
        self, params: Params, *, generations: int, steps: int, moments: Moments | None = None
    ) -> None:
        """Takes in the center of a generation.

        Raises:
            Finished: if the run is at its end.
        """
        jax.block_until_ready(params)
        self._seconds += time.perf_counter() - self._since
        self._first = self._first or self._seconds
        score = self._score(generations, params, moments)
        later = self._seconds - self._first
        self.row |= {
            "score": round(score, 1),
            "reached": score >= self._target,
            "total_seconds": round(self._seconds, 2),
            "first_seconds": round(self._first, 2),
            "seconds": round(later, 2),
            "generations": generations,
            "seconds_per_generation": round(later / max(generations - 1, 1), 4),
            "environment_steps": steps,
            "steps_per_second": round(self._rate(steps)),
        }
        if score >= self._target or self._seconds > self._limit:
            raise Finished
        self._since = time.perf_counter()

    def _score(self, call: int, params: Params, moments: Moments | None) -> float:
        played = self._play(call, params, moments)
        return score(played.fitness, played.steps).mean

    def _rate(self, steps: int) -> float:
        """Environment steps a second after the first generation."""
        if self._seconds == self._first:
            self._steps = steps
        return (steps - self._steps) / max(self._seconds - self._first, 1e-9)


def ours(problem: peers.Problem, judge: Judge) -> None:
    """Trains as ``nesht train`` does, without files and display."""
    training, steps = Training(problem.config), 0
    for number in itertools.count(1):
        steps += training.generation().steps
        state = training.state
        judge(state.params, generations=number, steps=steps, moments=state.moments)


def script(problem: peers.Problem, judge: Judge) -> None:
    """Runs ``plain_script.py``."""
    algorithm, layer = problem.config.algorithm, problem.params["layer0"]
    settings = plain_script.Settings(
        task=problem.name,
        num_members=algorithm.num_members,
        sigma=algorithm.sigma,
        learning_rate=problem.config.optimizer.learning_rate,
        mirrored=algorithm.mirrored,
        common_random_numbers=algorithm.common_random_numbers,
        horizon=problem.horizon,
        seed=problem.config.seed,
    )
    kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
    search = plain_script.generations(settings, kernel, bias, processes=cores())
    for number, (kernel, bias, steps) in enumerate(search, 1):
        weights = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
        judge({"layer0": weights}, generations=number, steps=steps)


def summarize(rows: list[Row]) -> None:
    """Prints a line a contender: median over seeds, and the range."""
    for task, contender in dict.fromkeys((row["task"], row["contender"]) for row in rows):
        some = [r for r in rows if (r["task"], r["contender"]) == (task, contender)]
        reached = [r for r in some if str(r["reached"]) == "True"]
        line = f"{task} {contender}: reached {len(reached)} of {len(some)}"
        for name in ("total_seconds", "seconds", "steps_per_second", "environment_steps"):
            values = sorted(float(r[name]) for r in reached)
            if values:
                line += f", {name} {statistics.median(values):g} ({values[0]:g} … {values[-1]:g})"
        print(line)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "time_to_score.csv")
    add, usual = parser.add_argument, list(TASKS)[:2]
    shown = " ".join(usual)
    add("--tasks", nargs="+", default=usual, choices=list(TASKS), help=f"tasks [{shown}]")
    add("--contenders", nargs="+", help="only these, as nesht or script+members")
    add("--seeds", type=int, nargs="+", default=[10, 11, 12], help="seeds of the runs [10 11 12]")
    add("--target", type=float, default=TARGET, help=f"mean return that ends a run [{TARGET:g}]")
    add("--limit", type=float, default=300.0, help="seconds of a run's own clock [300]")
    add("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
