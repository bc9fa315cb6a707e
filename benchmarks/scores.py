"""Score against steps, of linear policies on MuJoCo and Atari's memory, beside published figures.

    python benchmarks/scores.py --tasks envpool/Hopper-v4 --seeds 0 1 2 3 4

Trains every task on every seed by its tuned settings, those of the defaults where it has none,
games by the 128 bytes of their memory, and adds a row a run to the table; rows that are there
stand, so the command goes on where it was cut off. Then it writes what they had reached after
certain steps into the table of the same name that ends in ``_reached``, beside what
``published.csv`` says of the same robot or game.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from learning_rows import add_run_options, learn
from measuring import HERE, Row, command, planned, task_name, write
from tables import rows_of

from nesht_jax.envs.catalog import nearest
from nesht_jax.run.config import Config
from nesht_jax.run.names import tuned_config
from nesht_jax.run.settings import make_config

MARKS = {
    "Swimmer": (0.3, 0.5),
    "Hopper": (1.0, 3.0, 7.0),
    "HalfCheetah": (0.6, 1.5, 3.0),
    "Walker2d": (1.0, 2.0, 8.0),
    "Ant": (3.0, 10.0),
    "InvertedDoublePendulum": (0.2, 0.5),
    "Boxing": (2.0, 20.0),
    "Pong": (2.0, 20.0),
    "Qbert": (2.0, 20.0),
    "SpaceInvaders": (2.0, 20.0),
}
"""Robot or game -> million steps after which its score is told."""

EVERY = {"Swimmer": 2}
"""Updates between two evaluations, where the defaults have more than a mark allows: they change
nothing else."""

GAMES = ("Boxing", "Pong", "Qbert", "SpaceInvaders")
"""Those that show their memory."""

OVERSHOOT = 1.03
"""A run ends with the generation that reaches its steps, so a little later than a mark."""


def main() -> None:
    """Writes both tables."""
    options = _options()
    cases = planned(_cases(options))
    rows = learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)
    write(options.out.with_stem(f"{options.out.stem}_reached"), reached(rows))


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for task in options.tasks:
            marks = marks_of(task)
            steps = max(marks) if options.steps is None else options.steps
            if steps < min(marks):
                raise ValueError(f"{task} is told from {min(marks):g} steps on, got {steps:g}")
            yield settings(task, int(steps), seed)


def played(task: str) -> str:
    """Name of the robot or game of a task."""
    return task.rpartition("/")[2].split("-")[0]


def marks_of(task: str) -> list[float]:
    """Steps after which the score of a task is told.

    Raises:
        ValueError: if it has none.
    """
    name = played(task)
    if name not in MARKS:
        raise ValueError(f"no marks for {task}; {nearest(name, MARKS)}")
    return [1e6 * million for million in MARKS[name]]


def settings(task: str, steps: int, seed: int) -> tuple[str, Config]:
    """Makes the config of a task, and says what its settings are; v4 has those of v5."""
    game = played(task) in GAMES
    tuned = None if game else tuned_config(task.replace("-v4", "-v5"))
    words = [tuned.as_posix()] if tuned else []
    given = {"task_options": {"observation": "ram"}} if game else {}
    given |= {"task": task, "steps": steps, "generations": None, "seed": seed}
    if played(task) in EVERY:
        given |= {"evaluation": {"every": EVERY[played(task)]}}
    config = make_config(*words, **given)
    return "tuned" if tuned else "defaults", replace(config, out=None)


# ------------------------------------------------------------------------- what it amounts to


def reached(rows: list[Row]) -> list[Row]:
    """Tells median and quartiles over seeds after the steps of every mark, a row a mark."""
    published = rows_of(HERE / "published.csv")
    table = []
    for task in sorted({str(row["task"]) for row in rows}):
        runs = [row for row in rows if row["task"] == task]
        for mark in MARKS[played(task)]:
            there = [run for run in runs if float(run["steps"]) >= mark * 1e6]
            if not there:
                continue
            scores = [after(mark * 1e6, run) for run in there]
            low, middle, high = np.percentile(scores, [25, 50, 75])
            # no figure was found of robots of v5, which pays some of them otherwise
            comparable = task.endswith("-v4") or played(task) in GAMES
            named = [p for p in published if p["robot"] == played(task) and comparable]
            beside = next((p for p in named if p["million_steps"] == mark), None)
            table.append(
                {
                    "task": task,
                    "million_steps": mark,
                    "return_median": round(middle, 1),
                    "return_q25": round(low, 1),
                    "return_q75": round(high, 1),
                    "return_low": round(min(scores), 1),
                    "seeds": len(there),
                    "seconds": round(np.median([_seconds(mark * 1e6, run) for run in there])),
                    "published": beside["return"] if beside else "",
                    "published_by": f"{beside['method']} ({beside['source']})" if beside else "",
                }
            )
    return table


def after(steps: float, run: Row) -> float:
    """Return of a run after so many steps.

    Where these end the run, that of fresh episodes; else that of the last evaluation before.
    """
    if float(run["steps"]) <= OVERSHOOT * steps:
        return float(run["return"])
    points = [point.split(":") for point in str(run["curve"]).split()]
    return [float(value) for taken, value in points if float(taken) <= steps][-1]


def _seconds(steps: float, run: Row) -> float:
    return float(run["seconds"]) * min(steps / float(run["steps"]), 1)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "scores.csv")
    add = parser.add_argument
    robots = [name for name in MARKS if name not in GAMES]
    tasks = [f"envpool/{name}-v{version}" for version in (4, 5) for name in robots]
    add("--tasks", type=task_name, nargs="+", default=tasks, help="tasks [v4 and v5 of six robots]")
    add("--steps", type=float, help="useful steps of each run [to the last mark]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
