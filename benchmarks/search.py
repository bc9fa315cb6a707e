"""Architecture search beside structured kernels, at equal environment steps.

    python benchmarks/search.py --tasks envpool/Swimmer-v4 --searches sharing --seeds 0 1 2

Trains every (task, search, hidden units, controller, seed) and adds a row a run to the table; rows
that are there stand, so the command goes on where it was cut off. Then it writes what they amount
to, a row a search, into the table of the same name that ends in ``_summary``, beside what the paper
reports.
"""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from learning_rows import add_run_options, learn
from measuring import HERE, Row, command, planned, task_name, write
from tables import rows_of

from nesht_jax import make_config, make_task
from nesht_jax.policy.size import size_of
from nesht_jax.run.config import Config
from nesht_jax.run.result import Result
from nesht_jax.run.yaml import merge

SHORT = {"horizon_growth": 1.0}
"""Episodes that stay short: more generations of the same steps."""

SEARCHES: dict[str, dict[str, Any]] = {
    "sharing": {"search": {"space": ["colors"]}},
    "pruning": {"search": {"space": ["edges"]}},
    "pruning+functions": {"search": {"space": ["edges", "activations"]}},
    "boolean": {"search": {"space": ["mask"]}},
    "boolean-short": {"search": {"space": ["mask"]}} | SHORT,
    "boolean-short+target": {"search": {"space": ["mask"], "target": 64}} | SHORT,
    "dense": {},
    "toeplitz": {"policy": {"kernel": "toeplitz"}},
    "circulant": {"policy": {"kernel": "circulant"}},
    "masked": {"policy": {"kernel": "masked", "gate_cost": 0.5, "gate_cost_generations": 400}},
}
"""What is searched, or how kernels are made instead."""

CONTROLLERS = ["evolution", "policy_gradient", "random"]

BASE = {
    "algorithm": {"num_members": 32, "sigma": 0.05},
    "policy": {"start": "normal"},
    "optimizer": {"learning_rate": 0.002},
    "evaluation": {"every": 20},
}
"""Settings that all share: fewer members than the paper's 150, so more updates of the steps."""

OWN = {
    "Swimmer": {
        "algorithm": {"num_members": 16, "sigma": 0.1},
        "policy": {"normalization": "none"},
        "optimizer": {"learning_rate": 0.01},
        "evaluation": {"every": 10},
    },
    "HalfCheetah": {
        "horizon": 100,
        "horizon_growth": 1.3,
        "horizon_growth_every": 100,
        "evaluation": {"horizon": 1000},
    },
}
"""What robots need otherwise."""

STEPS = {"Swimmer": 2e6}
"""Million steps of robots that need fewer than the others."""


def main() -> None:
    """Writes both tables."""
    options = _options()
    where = {"table": options.out, "runs": options.runs, "episodes": options.episodes}
    rows = learn(planned(_cases(options)), more=proposals, **where)
    write(options.out.with_stem(f"{options.out.stem}_summary"), summarize(rows))


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for task in options.tasks:
            for search in options.searches:
                searched = "search" in SEARCHES[search]
                for controller in options.controllers if searched else ["none"]:
                    config = settings(task, search, options.hidden, controller, options.steps)
                    method = f"{search} {options.hidden} {controller}"
                    yield method, replace(config, seed=seed)


def proposals(result: Result) -> Row:
    """Tells of what is proposed last: what the center earns with it, and how many entries live."""
    earned = [row.center_fitness for row in result.rows]
    living = [row.edges for row in result.rows]
    return {"proposals": _last(earned), "edges": _last(living)}


def _last(values: list[float | None]) -> Any:
    told = [value for value in values if value is not None]
    last = told[-max(1, len(told) // 20) :]
    return round(fmean(last), 1) if last else ""


def robot(task: str) -> str:
    """Name of the robot of a task."""
    return task.split("/")[1].split("-")[0]


def settings(task: str, search: str, hidden: int, controller: str, steps: float | None) -> Config:
    """Makes the config of a search on a task."""
    steps = STEPS.get(robot(task), 3e6) if steps is None else steps
    parts = [BASE, OWN.get(robot(task), {}), SEARCHES[search]]
    given = functools.reduce(merge, parts, {"steps": int(steps), "generations": None})
    given = merge(given, {"task": task, "policy": {"hidden": [hidden] if hidden else []}})
    if controller != "none":
        members = given["algorithm"]["num_members"]
        given = merge(given, {"search": {"controller": controller, "num_center": members // 2}})
    return make_config(**given)


# ------------------------------------------------------------------------- what it amounts to


def summarize(rows: list[Row]) -> list[Row]:
    """Sums up the seeds of every search, beside the paper's."""
    published = rows_of(HERE / "search_published.csv")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["task"]), *str(row["method"]).split()), []).append(row)
    table = []
    for (task, search, hidden, controller), runs in sorted(groups.items()):
        returns = [float(run["return"]) for run in runs]
        same = {"robot": robot(task), "search": search, "controller": controller}
        same["policy"] = "hidden" if int(hidden) else "linear"
        beside = [row for row in published if all(row[name] == same[name] for name in same)]
        table.append(
            {
                "task": task,
                "search": search,
                "hidden": hidden,
                "controller": controller,
                "seeds": len(runs),
                "million_steps": round(fmean(float(run["steps"]) for run in runs) * 1e-6, 2),
                "return_mean": round(fmean(returns), 1),
                "deviation": round(stdev(returns), 1) if len(returns) > 1 else "",
                "proposals_mean": _mean([run["proposals"] for run in runs]),
                "edges_mean": _mean([run["edges"] for run in runs]),
                "return_low": round(min(returns), 1),
                "return_high": round(max(returns), 1),
                "weights": _weights(task, search, int(hidden)),
                "published": beside[0]["return"] if beside else "",
                "published_deviation": beside[0]["deviation"] if beside else "",
            }
        )
    return table


def _mean(values: list[Any]) -> Any:
    told = [float(value) for value in values if value != ""]
    return round(fmean(told), 1) if told else ""


def _weights(task: str, search: str, hidden: int) -> Any:
    """Numbers that the kernels are made of, where the search does not choose how many."""
    made = make_task(task)
    inputs, outputs = made.num_features, made.num_actions
    sizes = [inputs, hidden, outputs] if hidden else [inputs, outputs]
    kernels = list(zip(sizes[:-1], sizes[1:], strict=True))
    names = {"sharing": "shared", "pruning": "pruned", "pruning+functions": "pruned"}
    encoding: Any = names.get(search, search)
    if encoding not in ("shared", "pruned", "dense", "toeplitz", "circulant"):
        return ""
    colors = max(inputs, outputs)
    return size_of(kernels, encoding, biases=0, colors=colors, kept=64).weights


def _options() -> argparse.Namespace:
    parser = command(__doc__, "search.csv")
    add = parser.add_argument
    add(
        "--tasks",
        type=task_name,
        nargs="+",
        default=["envpool/Swimmer-v4"],
        help="tasks [envpool/Swimmer-v4]",
    )
    searches = list(SEARCHES)
    add("--searches", nargs="+", default=searches, choices=searches, help="searches [all]")
    add("--hidden", type=int, default=32, help="hidden units; 0: linear [32]")
    add("--controllers", nargs="+", default=CONTROLLERS, choices=CONTROLLERS, help="[all]")
    add("--steps", type=float, help="useful steps of each run [3e6, of Swimmer 2e6]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
