"""The two pictures of a run: how it learned, and which inputs it kept."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nesht_jax.report.rows import Row


def learning_curve(rows: list[Row], path: Path, *, title: str) -> None:
    """Draws return against generation: the evaluated center with its 95 % interval, the population.

    Where a generation or an evaluation has no finite return the curve has a gap.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    trained = [row for row in rows if row.generation]
    generation = [row.generation for row in trained]
    mean = _numbers([row.fitness_mean for row in trained])
    std = _numbers([row.fitness_std for row in trained])
    axes.fill_between(generation, mean - std, mean + std, alpha=0.2, color="C7", lw=0)
    axes.plot(generation, mean, color="C7", lw=1, label="population, mean ± std")
    scored = [(row.generation, row.evaluation) for row in rows if row.evaluation is not None]
    at = [generation for generation, _ in scored]
    center = _numbers([evaluation.mean for _, evaluation in scored])
    low = _numbers([evaluation.low for _, evaluation in scored], center)
    high = _numbers([evaluation.high for _, evaluation in scored], center)
    axes.fill_between(at, low, high, alpha=0.25, color="C0", lw=0)
    axes.plot(at, center, "o-", ms=3, color="C0", label="thresholded center, mean and 95 % CI")
    axes.set(xlabel="generation", ylabel="return", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=120)


def segment_picture(norms: list[float], path: Path, *, title: str) -> None:
    """Draws the norm of the first layer's weights on each observation segment, the true one first.

    Bars of segments whose norm is not finite are left out.
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


def _numbers(values: list[float | None], otherwise: np.ndarray | None = None) -> np.ndarray:
    """The values as an array, NaN (or ``otherwise``) where there is none."""
    array = np.array([np.nan if value is None else value for value in values], float)
    return array if otherwise is None else np.where(np.isnan(array), otherwise, array)
