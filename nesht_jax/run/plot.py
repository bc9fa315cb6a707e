"""The two pictures of a run: how it learned, and which inputs it kept."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nesht_jax.run.record import Row


def learning_curve(rows: list[Row], path: Path, *, title: str) -> None:
    """Return against generation: the evaluated centre with its 95 % interval, the population."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    told = [r for r in rows if r.get("fitness_mean") is not None]
    generation = [r["generation"] for r in told]
    mean = np.array([r["fitness_mean"] for r in told])
    std = np.array([r["fitness_std"] for r in told])
    axes.fill_between(generation, mean - std, mean + std, alpha=0.2, color="C7", lw=0)
    axes.plot(generation, mean, color="C7", lw=1, label="population, mean ± std")
    scored = [r for r in rows if r.get("evaluation")]
    at = [r["generation"] for r in scored]
    centre = [r["evaluation"]["mean"] for r in scored]
    low = [_or(r["evaluation"]["low"], r["evaluation"]["mean"]) for r in scored]
    high = [_or(r["evaluation"]["high"], r["evaluation"]["mean"]) for r in scored]
    axes.fill_between(at, low, high, alpha=0.25, color="C0", lw=0)
    axes.plot(at, centre, "o-", ms=3, color="C0", label="thresholded centre, mean and 95 % CI")
    axes.set(xlabel="generation", ylabel="return", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def segment_picture(norms: list[float], path: Path, *, title: str) -> None:
    """Norm of the first layer's weights on each observation segment; segment 0 is the true one."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    colors = ["C0"] + ["C7"] * (len(norms) - 1)
    axes.bar(range(len(norms)), norms, color=colors)
    axes.set_xticks(range(len(norms)))
    axes.set(xlabel="observation segment", ylabel="‖W[segment]‖", title=title)
    if len(norms) > 1:
        noise = float(np.mean(norms[1:]))
        ratio = f"{norms[0] / noise:.1f}× the mean noise segment" if noise else "noise all zeroed"
        axes.axhline(noise, color="C3", lw=1, ls="--", label="mean noise segment")
        axes.bar(0, 0, color="C0", label=f"true observation: {ratio}")
        axes.bar(0, 0, color="C7", label="task-irrelevant noise")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
