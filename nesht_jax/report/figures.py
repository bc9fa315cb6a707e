"""The pictures of a run, how it learned and which sensors its policy reads; and of a sweep."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator

from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import Row
from nesht_jax.report.sweeps import Combination, in_words

MOST_SENSORS = 32
"""Sensors in a picture."""

MOST_NAMED = 20
"""Motors whose weights are written as numbers."""

ROBOT = 2.6
"""Inches that a robot is wide."""

LARGEST_LINEAR_RATIO = 20
"""Largest over smallest value of an axis that is not logarithmic."""

PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
"""Setting of Matplotlib by which a name with dollar signs is no formula."""

MEAN_POINTS = 200
"""Points of a mean learning curve."""


def learning_curve(rows: list[Row], path: Path, *, title: str, of: str = "population") -> None:
    """Draws return against generation: the evaluated center with its 95 % interval, the population.

    Of an agent they are its policy, and the episodes that it explored in. Where a generation or an
    evaluation has no finite return the curve has a gap.

    Args:
        rows: metrics, one row a generation.
        path: file to write.
        title: what stands above.
        of: what the curve of training is of, in words.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    trained = [row for row in rows if row.generation]
    generation = [row.generation for row in trained]
    of_agent = any(row.agent is not None for row in trained)
    labels = f"{of}, mean ± std", "center"
    if of_agent:
        labels = "in training, mean", "policy"
    mean = _numbers([row.fitness_mean for row in trained])
    std = _numbers([row.fitness_std for row in trained])
    axes.fill_between(generation, mean - std, mean + std, alpha=0.2, color="C7", lw=0)
    point = "o" if len(generation) == 1 else None
    axes.plot(generation, mean, marker=point, ms=3, color="C7", lw=1, label=labels[0])
    scored = [(row.generation, row.evaluation) for row in rows if row.evaluation is not None]
    at = [generation for generation, _ in scored]
    center = _numbers([evaluation.mean for _, evaluation in scored])
    low = _numbers([evaluation.low for _, evaluation in scored], center)
    high = _numbers([evaluation.high for _, evaluation in scored], center)
    axes.fill_between(at, low, high, alpha=0.25, color="C0", lw=0)
    axes.plot(at, center, "o-", ms=3, color="C0", label=f"{labels[1]}, mean and 95 % CI")
    axes.set(xlabel="generation", ylabel="return", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


@matplotlib.rc_context(PLAIN_TEXT)
def sensors_picture(
    reading: Reading, path: Path, *, title: str, robot: bytes | None = None
) -> None:
    """Draws which sensors a policy reads, and for what: a table of signed weights.

    Left of it: the robot. Right of it: how many weights read each segment of the observation, the
    true one first. Of more sensors than ``MOST_SENSORS`` those of the largest weights are shown.

    Args:
        reading: what the policy reads.
        path: PNG to write.
        title: title above the verdict.
        robot: picture of the robot, as WebP; None where there is none.
    """
    true = reading.weights[: len(reading.sensors)]
    norms = np.linalg.norm(true, axis=1)
    shown = np.sort(np.argsort(-norms, kind="stable")[:MOST_SENSORS])
    table = true[shown]
    wide = len(reading.weights) > len(true)
    width, height = 3.2 + 0.55 * min(table.shape[1], 12) + 3.2 * wide, 1.4 + 0.26 * len(shown)
    ratios = [5.0, 3.0][: 1 + wide]
    if robot is not None:
        ratios = [sum(ratios) * ROBOT / width, *ratios]
        width, height = width + ROBOT, max(height, ROBOT + 0.6)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
    if robot is not None:
        _robot(axes.pop(0), robot)
    _table(axes[0], reading, table, [reading.sensors[i] for i in shown])
    if wide:
        _segments(axes[1], reading.weights_by_segment)
    more = "" if len(shown) == len(true) else f" ({len(shown)} of {len(true)} sensors shown)"
    figure.suptitle(f"{title}\n{reading.verdict()}{more}", fontsize=10)
    figure.savefig(path, dpi=120)


def _robot(axes: Axes, robot: bytes) -> None:
    axes.imshow(imread(io.BytesIO(robot), format="webp"))
    axes.set_axis_off()
    axes.set_anchor("N")


def _table(axes: Axes, reading: Reading, table: Float[np.ndarray, "s m"], names: list[str]) -> None:
    largest = np.abs(table).max(initial=0) or 1.0
    read = np.asarray(table.any(1))
    painted = np.where(read[:, None], table, np.nan)
    colors = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.93")
    axes.imshow(painted, cmap=colors, vmin=-largest, vmax=largest, aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for label, is_read in zip(axes.get_yticklabels(), read, strict=True):
        label.set_color("black" if is_read else "0.6")
    if len(reading.motors) > MOST_NAMED:
        axes.set(xlabel=f"{len(reading.motors)} hidden units or actions", xticks=[])
        return
    axes.set_xticks(range(len(reading.motors)), reading.motors, fontsize=8, rotation=35, ha="right")
    for (i, j), weight in np.ndenumerate(table):
        if weight:
            color = "white" if abs(weight) > 0.6 * largest else "black"
            text = f"{weight:+.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)


def _segments(axes: Axes, weights: list[int]) -> None:
    axes.bar(range(len(weights)), weights, color=["C0"] + ["C7"] * (len(weights) - 1))
    copies = len(weights) - 1
    axes.set(ylabel="weights kept")
    axes.set_ylim(0, 1.05 * max(1, *weights))
    axes.set_xticks([0, (1 + copies) / 2], ["sensors", f"irrelevant inputs, ×{copies}"])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def segment_picture(norms: list[float], path: Path, *, title: str) -> None:
    """Draws the norm of the first layer's weights on each observation segment, the true one first.

    For policies that look at images, whose pixels have no names. Bars of segments whose norm is not
    finite are left out.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    colors = ["C0"] + ["C7"] * (len(norms) - 1)
    axes.bar(range(len(norms)), np.nan_to_num(norms, posinf=0, neginf=0), color=colors)
    axes.set_xticks(range(len(norms)))
    axes.set(xlabel="observation segment", ylabel="‖W[segment]‖", title=title)
    if len(norms) > 1:
        mean = float(np.mean(norms[1:]))
        ratio = f"{norms[0] / mean:.1f}× the mean distractor" if mean else "distractors all zeroed"
        axes.axhline(mean, color="C3", lw=1, ls="--", label="mean distractor segment")
        axes.bar(0, 0, color="C0", label=f"true observation: {ratio}")
        axes.bar(0, 0, color="C7", label="distractors (irrelevant features)")
        axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=120)


def sweep_picture(combinations: list[Combination], path: Path, *, title: str) -> None:
    """Draws what a sweep found.

    Return against value where it varies one option, by numbers; learning curves otherwise.
    """
    values = [list(combination.values.values()) for combination in combinations]
    numbers = all(
        len(some) == 1 and isinstance(some[0], int | float) and not isinstance(some[0], bool)
        for some in values
    )
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if numbers:
        _return_by_value(axes, combinations)
    else:
        _curves(axes, combinations)
    axes.set(ylabel="return", title=title)
    axes.grid(alpha=0.3)
    if labels := axes.get_legend_handles_labels()[1]:
        figure.set_figheight(4.2 + 0.17 * len(labels))
        figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _return_by_value(axes: Axes, combinations: list[Combination]) -> None:
    """Draws the return of each run, and means with their intervals, against the one value."""
    ordered = sorted(combinations, key=lambda combination: list(combination.values.values()))
    (name,) = ordered[0].values
    at = np.array([combination.values[name] for combination in ordered], float)
    returns = [combination.column("return") for combination in ordered]
    low, high = np.array([combination.interval() for combination in ordered]).T
    axes.plot(
        np.repeat(at, [len(some) for some in returns]),
        np.concatenate(returns),
        "o",
        ms=4,
        color="C7",
        alpha=0.6,
        label="runs",
    )
    axes.vlines(at, low, high, color="C0")
    means = [some.mean() for some in returns]
    axes.plot(at, means, "o-", color="C0", label="mean of seeds and 95 % interval")
    axes.set_xlabel(name)
    if at[0] > 0 and at[-1] > LARGEST_LINEAR_RATIO * at[0]:
        axes.set_xscale("log")


def _curves(axes: Axes, combinations: list[Combination]) -> None:
    """Draws each run in pale, and the mean over seeds as far as all of them went."""
    few = len(combinations) <= 10
    colors = matplotlib.colormaps["tab10" if few else "viridis"]
    for number, combination in enumerate(combinations):
        color = colors(number if few else number / (len(combinations) - 1))
        curves = [run.curve() for run in combination.runs]
        for steps, returns in curves:
            axes.plot(steps, returns, lw=0.8, alpha=0.35, color=color)
        if any(not steps.size for steps, _ in curves):
            continue
        end = min(steps[-1] for steps, _ in curves)
        at = np.linspace(0, end, MEAN_POINTS)
        mean = np.mean([np.interp(at, *curve) for curve in curves], axis=0)
        axes.plot(at, mean, lw=1.8, color=color, label=in_words(combination.values))
    axes.set_xlabel("steps; bold: mean over seeds")


def _numbers(values: list[float | None], otherwise: np.ndarray | None = None) -> np.ndarray:
    """The values as an array, NaN (or ``otherwise``) where there is none."""
    array = np.array([np.nan if value is None else value for value in values], float)
    return array if otherwise is None else np.where(np.isnan(array), otherwise, array)
