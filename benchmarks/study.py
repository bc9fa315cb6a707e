"""Which inputs matter: methods among irrelevant inputs, at equal environment steps.

    python benchmarks/study.py --tasks envpool/Hopper-v5 --distractors 0 10 --seeds 0 1 2 3 4

Trains every (task, distractors, kind, method, seed) for the same steps and adds a row a run to the
table; rows that are there stand, so the command goes on where it was cut off. Then it writes what
they amount to, a row a method, into the table of the same name that ends in ``_summary``.
"""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, median
from typing import Any, NamedTuple, get_args

import numpy as np
from learning_rows import EIGHT_ENVS, add_run_options, learn
from measuring import Row, command, planned, task_name, write

from nesht_jax import make_task
from nesht_jax.report.statistics import bootstrap_interval
from nesht_jax.run.config import Config
from nesht_jax.run.settings import make_config
from nesht_jax.run.yaml import merge
from nesht_jax.types import DistractorKind

SHORT = {"horizon": 100, "horizon_growth": 1.0, "evaluation": {"horizon": 1000}}

OWN = {"HalfCheetah": SHORT, "Ant": SHORT}
"""What tasks need otherwise than Hopper: of episodes that hardly end early, 3e6 steps hold few."""

UPDATES = {"HalfCheetah": 930, "Hopper": 240}
"""Updates that 3e6 steps pay for, nearly."""

GROWING = {"horizon_growth": 1.3, "horizon_growth_every": 150}

PER_WEIGHT = {
    "algorithm": {"sigma": 0.025, "sigma_per": "weight"},
    "optimizer": {"learning_rate": 0.0005},
}
"""One σ for every weight, as most of the methods have it that are compared; the step α is the
preset's, .01."""

FAST_PER_WEIGHT = PER_WEIGHT | {"optimizer": {"learning_rate": 0.001}}
"""The same with twice the step size."""

FAST = {"optimizer": {"learning_rate": 0.008}}
"""Twice the step size of the preset."""

MANY = FAST | {
    "algorithm": {"num_members": 128, "fall_cost": 100},
    "sparsity": {"explore": 0.3},
}
"""The same with four times the members, for Walker2d: with 32 it learns to dive before most inputs
are found. What a fall costs is as its tuned settings have it."""

ROWS = {"method": "hard_threshold", "keep": "true inputs", "begin": 80, "every": 10, "end": None}
"""Hard thresholding of as many inputs as are true."""

HALF = ROWS | {"unit": "weight", "keep": "half"}
"""Of weights, one by one: half as many as read the true inputs."""

MASKS = HALF | {"begin": 0, "explore": 0.0}
"""The same number in methods with masks, whose members differ in the living weights alone."""

SELECT = ["select", PER_WEIGHT]
"""What the methods with σ per weight begin with."""

METHODS = {
    "nes": [*SELECT, "nes"],
    "nes_growing": [*SELECT, "nes", GROWING],
    "nes_fast": [*SELECT, "nes", FAST_PER_WEIGHT],
    "nes_output": ["select", "nes", GROWING],
    "nes_output_fast": ["select", "nes", FAST],
    "nes_output_many": ["select", "nes", MANY],
    "weight_decay": [*SELECT, "nes", {"optimizer": {"weight_decay": 20.0}}],
    "select": SELECT,
    "select_growing": [*SELECT, GROWING],
    "select_fast": [*SELECT, FAST_PER_WEIGHT],
    "select_output": ["select", GROWING],
    "select_output_fast": ["select", FAST],
    "select_output_many": ["select", MANY],
    "preset": ["select"],
    "select_ever": [*SELECT, GROWING, {"sparsity": {"end": None}}],
    "select_dense": [*SELECT, {"sparsity": {"explore": 1.0}}],
    "rows": [*SELECT, {"sparsity": ROWS}],
    "rows_dense": [*SELECT, {"sparsity": ROWS | {"explore": 1.0}}],
    "one_shot": [*SELECT, {"sparsity": ROWS | {"begin": 0, "end": 1}}],
    "weights": [*SELECT, {"sparsity": HALF | {"exempt_bias": True}}],
    "weights_dense": [*SELECT, {"sparsity": HALF | {"exempt_bias": True, "explore": 1.0}}],
    "static": [*SELECT, {"sparsity": MASKS | {"method": "static"}}],
    "set": [*SELECT, {"sparsity": MASKS | {"method": "set", "end": "three quarters"}}],
    "rigl": [*SELECT, {"sparsity": MASKS | {"method": "rigl", "end": "three quarters"}}],
    "random_reset": [*SELECT, {"sparsity": MASKS | {"method": "set", "drop": 1.0}}],
    "pruning": [
        *SELECT,
        {"sparsity": MASKS | {"method": "pruning", "begin": 80, "end": "three quarters"}},
    ],
    "ars": ["ars-v2-t"],
    "clipup": ["pgpe-clipup"],
    "nesht_published": ["code-mujoco"],
    "nes_published": ["code-mujoco", "nes"],
    "ppo": ["ppo", EIGHT_ENVS],
    "sac": ["sac"],
}
"""Settings of each method, merged from left to right: presets, and what differs from them."""

MARKS = ("ppo", "sac")
"""Methods that learn by policy gradients: marks from outside, at steps of their own, so that no
fraction and no p is told of them."""

YARDSTICK = "nes"
"""The method whose return without distractors is a retained fraction of 1, where ``YARDSTICKS``
names no other."""

YARDSTICKS = {
    "nes_growing": "nes_growing",
    "select_growing": "nes_growing",
    "select_ever": "nes_growing",
    "nes_output": "nes_growing",
    "select_output": "nes_growing",
    "nes_fast": "nes_fast",
    "select_fast": "nes_fast",
    "nes_output_fast": "nes_fast",
    "select_output_fast": "nes_fast",
    "nes_output_many": "nes_output_many",
    "select_output_many": "nes_output_many",
}
"""Yardsticks of methods with other horizons or another step size: NES with the same, and with σ per
weight, which earns more without distractors."""

RIVALS = ("nes", "nes_growing", "nes_output", "nes_fast", "nes_output_fast", "nes_output_many")
"""NES; the others are compared with the best of those trained among as many distractors."""

SELECTING = (
    "select_output",
    "select_output_fast",
    "select_output_many",
    "select_growing",
    "select_fast",
    "select",
)
"""Methods that tell which inputs are useful, the first that was trained without distractors."""


class Key(NamedTuple):
    """What the runs of one line of the summary share."""

    task: str
    distractors: str
    kind: str
    method: str


def main() -> None:
    """Writes both tables."""
    options = _options()
    cases = planned(_cases(options))
    rows = learn(cases, table=options.out, runs=options.runs, episodes=options.episodes)
    summary = options.out.with_stem(f"{options.out.stem}_summary")
    write(summary, summarize(rows))


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    for seed in options.seeds:
        for task in options.tasks:
            for distractors in options.distractors:
                for method in options.methods:
                    for kind in options.kinds if distractors else ["normal"]:
                        config = settings(method, task, distractors, int(options.steps))
                        yield method, replace(config, seed=seed, distractor_kind=kind)


def settings(method: str, task: str, distractors: int, steps: int) -> Config:
    """Makes the config of a method on a task."""
    words = [word for word in METHODS[method] if isinstance(word, str)]
    changes = [word for word in METHODS[method] if isinstance(word, dict)]
    if words[0] == "select":
        changes = [change for name, change in OWN.items() if name in task] + changes
    own = functools.reduce(merge, changes, {"evaluation": {"every": 20}})
    made = make_task(task)
    numbers = {
        "true inputs": made.observation_size,
        "half": made.observation_size * made.num_actions // 2,
        "three quarters": 3 * next((n for name, n in UPDATES.items() if name in task), 400) // 4,
    }
    sparsity = {n: numbers.get(v, v) for n, v in own.get("sparsity", {}).items()}
    own = merge(own, {"sparsity": sparsity}) if sparsity else own
    given = own | {"distractors": distractors, "steps": steps, "generations": None}
    return make_config(task, *words, **given)


# ------------------------------------------------------------------------- what it amounts to


def summarize(rows: list[Row]) -> list[Row]:
    """Sums up the seeds of every (task, distractors, kind, method).

    The retained fraction is (R - R_begin) / (R_0 - R_begin): R_begin is the return of the policy
    that training begins with, R_0 that of NES without distractors. Recall is of the inputs that at
    least half of the runs of ``SELECTING`` without distractors read.
    """
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        key = Key(*(str(row[name]) for name in Key._fields))
        groups.setdefault(key, []).append(row)
    return [_summary(key, groups) for key in sorted(groups, key=_place)]


def _place(key: Key) -> tuple[Any, ...]:
    return key.task, key.kind != "normal", key.kind, int(key.distractors)


def _summary(key: Key, groups: dict[Key, list[Row]]) -> Row:
    runs, alone = groups[key], key._replace(distractors="0", kind="normal")
    returns = _returns(runs)
    full = YARDSTICKS.get(key.method, YARDSTICK)
    yardstick = _returns(groups.get(alone._replace(method=full), []))
    rivals = [_returns(groups.get(key._replace(method=name), [])) for name in RIVALS]
    rival = max(filter(None, rivals), key=fmean, default=[])
    if key.method in MARKS:
        yardstick, rival = [], []
    selecting = [groups.get(alone._replace(method=name), []) for name in SELECTING]
    useful = _useful(next(filter(None, selecting), []))
    read = [set(map(int, str(run["inputs"]).split())) for run in runs]
    false = [float(run["distractors_read"]) for run in runs]
    share = [f / max(f + float(run["true_read"]), 1) for f, run in zip(false, runs, strict=True)]
    retained, low, high = _retained(returns, yardstick, runs)
    return {
        **key._asdict(),
        "seeds": len(runs),
        "million_steps": round(fmean(float(run["steps"]) for run in runs) * 1e-6, 2),
        "return_mean": round(fmean(returns), 1),
        "return_median": round(median(returns), 1),
        "return_low": round(min(returns), 1),
        "return_high": round(max(returns), 1),
        "retained": retained,
        "retained_low": low,
        "retained_high": high,
        "p_against_nes": "" if returns == rival else _p_value(returns, rival),
        "recall": round(fmean(len(r & useful) / len(useful) for r in read), 2) if useful else "",
        "false_share": round(fmean(share), 2),
        "true_read": round(fmean(float(run["true_read"]) for run in runs), 1),
        "distractors_read": round(fmean(false), 1),
    }


def _returns(runs: list[Row]) -> list[float]:
    return [float(run["return"]) for run in runs]


def _useful(runs: list[Row]) -> set[int]:
    """Inputs that at least half of these runs read."""
    read = [i for run in runs for i in map(int, str(run["inputs"]).split())]
    return {i for i in read if 2 * read.count(i) >= len(runs)}


def _retained(returns: list[float], yardstick: list[float], runs: list[Row]) -> tuple[Any, ...]:
    """The fraction, and its interval over the seeds of both."""
    if not yardstick:
        return "", "", ""
    begin = fmean(float(str(run["curve"]).split()[0].split(":")[1]) for run in runs)

    def fraction(found: Any, full: Any, axis: int = -1) -> Any:
        return (np.mean(found, axis=axis) - begin) / (np.mean(full, axis=axis) - begin)

    low, high = bootstrap_interval([returns, yardstick], fraction)
    middle = float(fraction(np.array(returns), np.array(yardstick)))
    return tuple("" if np.isnan(x) else round(x, 3) for x in (middle, low, high))


def _p_value(returns: list[float], rival: list[float]) -> Any:
    """Two-sided p of Welch's t-test; empty below two runs."""
    if min(len(returns), len(rival)) < 2:
        return ""
    from scipy import stats

    return f"{stats.ttest_ind(returns, rival, equal_var=False)[1]:.2g}"


def _options() -> argparse.Namespace:
    parser = command(__doc__, "study.csv")
    add = parser.add_argument
    add(
        "--tasks",
        type=task_name,
        nargs="+",
        default=["envpool/Hopper-v5"],
        help="tasks [envpool/Hopper-v5]",
    )
    add("--distractors", type=int, nargs="+", default=[0, 10], help="N of ×N [0 10]")
    kinds = get_args(DistractorKind)
    add("--kinds", nargs="+", default=["normal"], choices=kinds, help="kinds of them [normal]")
    methods = list(METHODS)
    add("--methods", nargs="+", default=methods, choices=methods, help="methods [all]")
    add("--steps", type=float, default=3e6, help="useful steps of each run [3e6]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
