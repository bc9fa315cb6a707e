"""Draws the pictures of README and docs from the committed CSV files.

python benchmarks/pictures.py
"""

import argparse
import itertools
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tables import Row, rows_of

HERE = Path(__file__).parent
OURS, THEIRS = "C0", "C7"
NAMES = {
    "nesht": "nesht_jax",
    "script": "plain NumPy script",
    "evotorch": "EvoTorch",
    "brax_es": "Brax ES",
    "evosax": "evosax",
}
STEPS = {
    "": "",
    "mirrored": ", mirrored",
    "common": ", + common random numbers",
    "members": ", + 64 members",
    "running": ", + running normalization",
    "fewer": ", + 16 members, σ 0.2",
}


def main() -> None:
    """Draws all of them."""
    options = _options()
    ceiling(options.out / "ceiling.png")
    time_to_score(options.out / "time_to_score.png")
    atari(options.out / "atari_curves.png")
    robustness(options.out / "robustness.png")
    study(options.out / "study.png")
    scores(options.out / "scores.png")


def ceiling(path: Path) -> None:
    """Useful training steps over bare stepping of the same simulator."""
    rows = [
        r
        for name in ("ceiling", "ceiling_mlp", "ceiling_jax")
        for r in rows_of(HERE / f"{name}.csv")
    ]
    figure = Figure(figsize=(7, 0.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        ratio, low, high = (float(row[f"ratio{end}"]) for end in ("", "_low", "_high"))
        axes.barh(place, ratio, color=OURS)
        axes.plot([low, high], [place, place], color="black", lw=1)
    labels = [f"{r['task']} ×{r['distractors']}, {r['hidden']}" for r in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.axvline(1, color="C3", lw=1, ls="--")
    axes.set(xlabel="useful training steps / bare steps of the simulator alone")
    figure.savefig(path, dpi=120)


def time_to_score(path: Path) -> None:
    """Wall time of every contender, a dot a seed; hollow where the time ran out first."""
    rows = [r for end in ("", "_brax") for r in rows_of(HERE / f"time_to_score{end}.csv")]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(7, 1 + 0.3 * len({(r["task"], r["contender"]) for r in rows})))
    figure.set_layout_engine("constrained")
    contenders = {
        task: list(dict.fromkeys(r["contender"] for r in rows if r["task"] == task))
        for task in tasks
    }
    heights = [len(contenders[task]) for task in tasks]
    all_axes = figure.subplots(len(tasks), 1, height_ratios=heights, squeeze=False, sharex=True)
    for axes, task in zip(all_axes[:, 0], tasks, strict=True):
        for place, contender in enumerate(contenders[task]):
            some = [r for r in rows if (r["task"], r["contender"]) == (task, contender)]
            seconds = [float(r["total_seconds"]) for r in some]
            color = OURS if contender.startswith("nesht") else THEIRS
            axes.barh(place, median(seconds), color=color, alpha=0.5)
            for row, value in zip(some, seconds, strict=True):
                face = color if row["reached"] else "white"
                axes.plot(value, place, "o", ms=5, color=color, markerfacecolor=face)
        axes.set_yticks(range(len(contenders[task])), [label(c) for c in contenders[task]])
        axes.invert_yaxis()
        axes.set_title(f"{task}, mean return {float(rows[0]['target']):g}", fontsize=10)
    all_axes[-1, 0].set(xlabel="seconds with compilation; hollow: not reached")
    figure.savefig(path, dpi=120)


def atari(path: Path) -> None:
    """Score of whole games on the way of training, and what never to look scores."""
    figure, panels = panel_a_game(rows_of(HERE / "atari_curves.csv"), "frames", unit=1e6)
    ends = rows_of(HERE / "atari.csv")
    for task, axes in panels.items():
        constant = next(float(r["best_constant"]) for r in ends if r["task"] == task)
        axes.axhline(constant, color="C3", lw=1, ls="--", label="best single action")
        axes.set(xlabel="million frames of training")
        axes.legend()
    figure.savefig(path, dpi=120)


def robustness(path: Path) -> None:
    """Score of whole games seen through noise of which training knew nothing."""
    figure, panels = panel_a_game(rows_of(HERE / "robustness.csv"), "noise")
    for axes in panels.values():
        axes.set(xlabel="standard deviation of pixel noise")
        axes.legend()
    figure.savefig(path, dpi=120)


STUDIED = {
    "nes": THEIRS,
    "nes_growing": "black",
    "nes_fast": "black",
    "rows": "C1",
    "select": "C9",
    "select_growing": "C2",
    "select_fast": "C2",
    "select_output": OURS,
    "select_output_fast": OURS,
}
"""Method of the study -> color of its lines."""

AMONG = (0, 10, 20, 49)
"""Numbers of distractors for each input that the picture of the study shows."""


def study(path: Path) -> None:
    """Return on the way of training among N(0, 1) distractors, a line a seed: of tasks that were
    trained among all numbers in ``AMONG``."""
    rows = [r for r in rows_of(HERE / "study.csv") if r["kind"] == "normal"]
    tried = {(row["task"], int(row["distractors"])) for row in rows}
    named = dict.fromkeys(row["task"] for row in rows)
    tasks = [task for task in named if all((task, number) in tried for number in AMONG)]
    figure = Figure(figsize=(2.7 * len(AMONG), 2.5 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(AMONG), squeeze=False, sharex=True, sharey="row")
    for (i, task), (j, number) in itertools.product(enumerate(tasks), enumerate(AMONG)):
        axes = panels[i, j]
        for method, color in STUDIED.items():
            key = (task, number, method)
            runs = [r for r in rows if (r["task"], int(r["distractors"]), r["method"]) == key]
            for index, run in enumerate(runs):
                axes.plot(*curve(run), color=color, lw=1, label=None if index else method)
        axes.set_title(f"{task}, ×{number}", fontsize=9)
    for axes in panels[-1]:
        axes.set(xlabel="million steps")
    for axes in panels[:, 0]:
        axes.set(ylabel="return")
    lines = [Line2D([], [], color=color, label=method) for method, color in STUDIED.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def scores(path: Path) -> None:
    """Return on the way of training, a line a seed, with what is published as crosses."""
    rows = rows_of(HERE / "scores.csv")
    published = rows_of(HERE / "published.csv")
    tasks = sorted({row["task"] for row in rows})
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        runs = [row for row in rows if row["task"] == task]
        for run in runs:
            axes.plot(*curve(run), color=OURS, lw=1)
        end = max(run["steps"] for run in runs) * 1e-6
        named = [p for p in published if task == f"envpool/{p['robot']}-v4"]
        marks = [
            (p["million_steps"], p["return"]) for p in named if p["million_steps"] <= 1.05 * end
        ]
        if marks:
            axes.plot(*zip(*marks, strict=True), "x", color="C3", label="published")
            axes.legend(fontsize=8)
        axes.set_title(task, fontsize=9)
    for axes in panels[len(tasks) :]:
        axes.remove()
    figure.supxlabel("million steps", fontsize=9)
    figure.supylabel("return", fontsize=9)
    figure.savefig(path, dpi=120)


def curve(run: Row) -> tuple[list[float], list[float]]:
    """Million steps and returns of the evaluations that a row tells."""
    points = [point.split(":") for point in run["curve"].split()]
    return [float(steps) * 1e-6 for steps, _ in points], [float(value) for _, value in points]


def panel_a_game(rows: list[Row], x: str, *, unit: float = 1) -> tuple[Figure, dict[str, Axes]]:
    """Mean scores over a column: dense and sparse, a line a seed, with standard errors."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(3.5 * len(tasks), 3), layout="constrained")
    panels = dict(zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True))
    for task, axes in panels.items():
        for method, color in (("NES", THEIRS), ("NESHT", OURS)):
            some = [r for r in rows if (r["task"], r["method"]) == (task, method)]
            for number, seed in enumerate(dict.fromkeys(r["seed"] for r in some)):
                run = [r for r in some if r["seed"] == seed]
                axes.errorbar(
                    [float(r[x]) / unit for r in run],
                    [float(r["mean"]) for r in run],
                    [float(r["standard_error"]) for r in run],
                    color=color,
                    lw=1,
                    label=None if number else method,
                )
        axes.set_title(task, fontsize=10)
    figure.axes[0].set(ylabel="score of whole games")
    return figure, panels


def label(contender: str) -> str:
    """A contender in words."""
    name, _, step = contender.partition("+")
    return NAMES[name] + STEPS[step]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
