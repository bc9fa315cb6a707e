"""The pictures of a searched architecture: what is wired to what, and how the search went."""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nesht_jax.report.figures import PLAIN_TEXT
from nesht_jax.report.rows import Row

MOST_NODES = 48
"""Nodes of one layer in a picture: of more those with the largest weights are shown."""

MOST_NAMED_EDGES = 40
"""Edges whose names are written."""


class Wiring(NamedTuple):
    """The kernels of a policy, with names.

    Attributes:
        nodes: names of the inputs, then of the units of each hidden layer, then of the motors.
        kernels: kernels [in, out], first layer first; 0 where an entry does not live.
        colors: number of weights that the entries of all kernels share; 0 if each has its own.
    """

    nodes: tuple[tuple[str, ...], ...]
    kernels: tuple[Float[np.ndarray, "in out"], ...]
    colors: int = 0

    @property
    def num_edges(self) -> int:
        """Entries of all kernels."""
        return sum(kernel.size for kernel in self.kernels)

    @property
    def living(self) -> int:
        """Entries that live."""
        return sum(int(np.count_nonzero(kernel)) for kernel in self.kernels)

    def names(self) -> list[str]:
        """Names the entries in the order of their numbers: ``pitch → thigh``."""
        return [
            f"{before} → {after}"
            for befores, afters in zip(self.nodes[:-1], self.nodes[1:], strict=True)
            for before in befores
            for after in afters
        ]


@matplotlib.rc_context(PLAIN_TEXT)
def wiring_picture(wiring: Wiring, path: Path | BytesIO, *, title: str) -> None:
    """Draws a policy as a graph; or, where entries share weights, which of them do, as tables."""
    if wiring.colors:
        _partition(wiring, path, title)
        return
    shown = [_shown(wiring, layer) for layer in range(len(wiring.nodes))]
    height = 1.0 + 0.2 * max(len(some) for some in shown)
    figure = Figure(figsize=(3.2 + 2.2 * len(wiring.kernels), max(height, 2.6)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    places = [np.linspace(1, 0, len(some) + 2)[1:-1] for some in shown]
    for layer, kernel in enumerate(wiring.kernels):
        _edges(axes, kernel[np.ix_(shown[layer], shown[layer + 1])], layer, places)
    for layer, names in enumerate(wiring.nodes):
        used = _strength(wiring, layer) > 0
        _nodes(axes, [names[i] for i in shown[layer]], used[shown[layer]], layer, places[layer])
    axes.set(xlim=(-0.9, len(wiring.kernels) + 0.7), ylim=(0, 1))
    axes.axis("off")
    axes.set_title(f"{title}\n{wiring.living} of {wiring.num_edges} edges", fontsize=10)
    figure.savefig(path, dpi=120)


def _strength(wiring: Wiring, layer: int) -> Float[np.ndarray, " nodes"]:
    """Sum of the absolute weights at each node of a layer."""
    total = np.zeros(len(wiring.nodes[layer]))
    if layer < len(wiring.kernels):
        total += np.abs(wiring.kernels[layer]).sum(1)
    if layer:
        total += np.abs(wiring.kernels[layer - 1]).sum(0)
    return total


def _shown(wiring: Wiring, layer: int) -> Int[np.ndarray, " shown"]:
    strength = _strength(wiring, layer)
    return np.sort(np.argsort(-strength, kind="stable")[:MOST_NODES])


def _edges(
    axes: Axes, kernel: Float[np.ndarray, "in out"], layer: int, places: list[np.ndarray]
) -> None:
    i, j = np.nonzero(kernel)
    weights = kernel[i, j]
    order = np.argsort(np.abs(weights), kind="stable")
    i, j, weights = i[order], j[order], weights[order]
    largest = np.abs(weights).max(initial=0) or 1.0
    x = np.broadcast_to([layer, layer + 1.0], (len(i), 2))
    ends = np.stack([x, np.stack([places[layer][i], places[layer + 1][j]], axis=1)], axis=2)
    size = np.abs(weights) / largest
    colors = matplotlib.colormaps["RdBu_r"](0.5 + np.sign(weights) * (0.18 + 0.32 * size))
    axes.add_collection(LineCollection(list(ends), colors=colors, linewidths=0.4 + 2.2 * size))


def _nodes(axes: Axes, names: list[str], used: np.ndarray, layer: int, heights: np.ndarray) -> None:
    colors = np.where(used, "0.15", "0.8")
    axes.scatter(np.full(len(heights), layer), heights, s=18, c=colors, zorder=3)
    sides = {"ha": "right", "x": layer - 0.06} if layer == 0 else {"ha": "left", "x": layer + 0.06}
    for name, height, color in zip(names, heights, np.where(used, "black", "0.6"), strict=True):
        axes.text(y=height, s=name, va="center", fontsize=7, color=color, **sides)


def _partition(wiring: Wiring, path: Path | BytesIO, title: str) -> None:
    """One table a kernel, an entry painted by the weight that it has."""
    values = np.unique(np.concatenate([kernel.ravel() for kernel in wiring.kernels]))
    tall = max(len(kernel) for kernel in wiring.kernels)
    wide = [max(kernel.shape[1], 3) for kernel in wiring.kernels]
    size = (2.4 * len(wide) + 0.16 * sum(wide), 1.6 + 0.16 * tall)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(wide), squeeze=False, width_ratios=wide)[0]
    for layer, (axes, kernel) in enumerate(zip(panels, wiring.kernels, strict=True)):
        axes.imshow(
            np.searchsorted(values, kernel),
            cmap="turbo",
            aspect="auto",
            vmin=0,
            vmax=max(len(values) - 1, 1),
        )
        axes.set_yticks(range(len(kernel)), wiring.nodes[layer], fontsize=6)
        axes.set_xticks(range(kernel.shape[1]), wiring.nodes[layer + 1], fontsize=6, rotation=90)
    number = wiring.num_edges
    figure.suptitle(
        f"{title}\n{len(values)} of {wiring.colors} weights, shared by {number} edges", fontsize=10
    )
    figure.savefig(path, dpi=120)


class Proposed(NamedTuple):
    """What a search proposed, evaluation by evaluation.

    Attributes:
        generations: generations of the evaluations.
        frequency: share of the proposals in which each entry of the kernels lives.
    """

    generations: Int[np.ndarray, " evaluations"]
    frequency: Float[np.ndarray, "evaluations edges"]


@matplotlib.rc_context(PLAIN_TEXT)
def search_picture(
    rows: list[Row],
    proposed: Proposed,
    wiring: Wiring,
    path: Path,
    *,
    title: str,
    target: int | None,
) -> None:
    """Draws how often each edge is proposed, and how many edges and architectures there are.

    Args:
        rows: metrics of the run.
        proposed: what was proposed.
        wiring: policy of the end, which gives the names.
        path: file to write.
        title: what stands above.
        target: edges above which the controller is paid less; None: no such number.
    """
    frequency = proposed.frequency.T
    order = np.argsort(-frequency[:, -1], kind="stable") if frequency.size else []
    named = len(frequency) <= MOST_NAMED_EDGES
    height = 0.16 * len(frequency) if named else 5.0
    figure = Figure(figsize=(7.5, 3.0 + height), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[height, 2.0])
    ends = (
        (proposed.generations[0], proposed.generations[-1]) if len(proposed.generations) else (0, 1)
    )
    image = above.imshow(
        frequency[order],
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(ends[0], max(ends[1], ends[0] + 1), len(frequency), 0),
    )
    figure.colorbar(image, ax=above, label="share of proposals with this edge")
    if named:
        names = wiring.names()
        above.set_yticks(np.arange(len(frequency)) + 0.5, [names[i] for i in order], fontsize=6)
    else:
        above.set(ylabel=f"{len(frequency)} edges, the most frequent first")
    above.set_title(title, fontsize=10)
    told = [row for row in rows if row.edges is not None]
    generations = [row.generation for row in told]
    below.plot(
        generations, [row.edges for row in told], color="C0", label="edges of a member, mean"
    )
    below.plot(
        generations,
        [row.distinct_architectures for row in told],
        color="C1",
        label="different architectures in a generation",
    )
    if target is not None:
        below.axhline(target, color="black", lw=0.8, ls="--", label=f"target of {target} edges")
    below.set(xlabel="generation", ylim=(0, 1.05 * max(1, below.dataLim.y1)))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(frameon=False, fontsize=8)
    below.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
