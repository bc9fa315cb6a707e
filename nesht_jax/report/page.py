"""One page of a run, or of several: a file of HTML that needs nothing else, and no network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import Row, csv_text
from nesht_jax.report.statistics import Score, bootstrap_interval, iqm

MOST_SENSORS = 40
"""True sensors in a table."""

MOST_IRRELEVANT = 10
"""Irrelevant inputs in a table."""

MOST_COLUMNS = 24
"""Motors in a table; of more outputs, as hidden units are, only the norms of rows are shown."""

MOST_NUMBERS = 12_000
"""Weights of all evaluations together: a page holds 300 KiB."""


class Pruned(NamedTuple):
    """How a policy plays with only its largest params, or inputs.

    Attributes:
        k: number of params, or inputs, that are kept.
        score: score of the episodes played.
        kernel: first layer's kernel with zeros where it is pruned; None where inputs are images.
    """

    k: int
    score: Score
    kernel: Float[np.ndarray, "inputs outputs"] | None


class Run(NamedTuple):
    """What a page tells of a run.

    Attributes:
        name: name of the run folder.
        task: suite and task.
        generation: generation of the policy that is shown.
        rows: metrics of the run.
        settings: all settings of the run, as text.
        changed: names of those that are not the defaults.
        command: command that trains the same run.
        made: versions, device and times, in words.
        reading: what the policy reads; None of images.
        pruned: score against k, the whole policy last; empty where it was not measured.
        unit: what k counts: ``"inputs"`` or ``"params"``: weights and biases.
        kernels: first layer's kernel at each evaluation that is kept, by generation.
        film: film as a data URI; empty where there is none.
        robot: still of the robot as a data URI, for a page without a film; likewise empty.
        wiring: picture of the architecture as a data URI, where it was searched or given.
        size: what the policy takes to write down, in words; likewise empty.
    """

    name: str
    task: str
    generation: int
    rows: list[Row]
    settings: dict[str, str]
    changed: list[str]
    command: str
    made: str
    reading: Reading | None = None
    pruned: Sequence[Pruned] = ()
    unit: str = "params"
    kernels: dict[int, Float[np.ndarray, "inputs outputs"]] = {}
    film: str = ""
    robot: str = ""
    wiring: str = ""
    size: str = ""

    @property
    def steps(self) -> int:
        """Environment steps before the policy that is shown."""
        return sum(row.steps for row in self.rows if row.generation <= self.generation)


def write_page(runs: Sequence[Run], path: Path) -> None:
    """Writes the page of some runs; of several it compares them."""
    import jinja2
    from markupsafe import Markup

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=folder, autoescape=True).get_template("page.html")
    told = [_told(run, alone=len(runs) == 1) for run in runs]
    rows = comparison(runs)
    text = template.render(
        title=" and ".join(dict.fromkeys(run.task for run in runs)),
        verdict=verdict(runs[0]) if len(runs) == 1 else ranking(rows),
        runs=told,
        settings=runs[0].changed if len(runs) == 1 else differences(runs),
        comparison=rows,
        csv=_uri("text/csv", csv_text(rows).encode()),
        latex=_uri("text/x-tex", as_latex(rows).encode()),
        data=[{key: run[key] for key in DRAWN} for run in told],
        script=Markup(Path(__file__).with_name("page.js").read_text(encoding="utf-8")),
    )
    path.write_text(text, encoding="utf-8")


DRAWN = ("name", "curve", "table", "unit", "pruned", "history")
"""Parts of a run that the script draws."""


def verdict(run: Run) -> str:
    """Tells in one sentence what the policy reads and what it earns."""
    words = [f"After {run.steps:,} steps the policy"]
    if run.reading is not None:
        kept = int(np.count_nonzero(run.reading.weights))
        words.append(f"{run.reading.verdict()}, with {kept} of {run.reading.weights.size} weights,")
    if run.pruned:
        score = run.pruned[-1].score
        words.append(
            f"{'and ' if run.reading else ''}earns {score.mean:.0f} an episode (95 % interval "
            f"{score.low:.0f} … {score.high:.0f}, {score.episodes} fresh episodes)"
        )
    return " ".join(words).rstrip(",") + "."


# ------------------------------------------------------------------------- one run, as it is drawn


def _told(run: Run, *, alone: bool) -> dict[str, Any]:
    told = run._asdict() | {
        "curve": curve(run.rows),
        "table": None,
        "pruned": [],
        "history": None,
        "law": [],
        "episodes": run.pruned[-1].score.episodes if run.pruned else 0,
    }
    if not alone:
        return told
    shown = [] if run.reading is None else shown_inputs(run.reading, run.kernels)
    if run.reading is not None:
        told["table"] = _table(run.reading, shown)
        told["law"] = run.reading.short_law()
        told["history"] = _history(run, shown)
    told["pruned"] = [_point(point, run.reading, shown) for point in run.pruned]
    return told


def curve(rows: list[Row]) -> list[dict[str, Any]]:
    """The evaluations, with the steps and the seconds that were trained before each."""
    points, steps, seconds = [], 0, 0.0
    for row in rows:
        steps, seconds = steps + row.steps, seconds + row.seconds
        found = row.evaluation
        if found is None or found.mean is None:
            continue
        low = found.mean if found.low is None else found.low
        high = found.mean if found.high is None else found.high
        points.append(
            {
                "generation": row.generation,
                "steps": steps,
                "seconds": round(seconds, 1),
                "mean": round(found.mean, 2),
                "low": round(low, 2),
                "high": round(high, 2),
            }
        )
    return points


def shown_inputs(
    reading: Reading, kernels: dict[int, Float[np.ndarray, "inputs outputs"]]
) -> list[int]:
    """Chooses the inputs of a table: true ones, and irrelevant ones that are or were read.

    Of too many those of the largest weights; then those that were read at the most evaluations, of
    which one, before anything was thresholded, does not count.
    """
    norms = np.linalg.norm(reading.weights, axis=1)
    times = np.sum([kernel.any(1) for kernel in kernels.values()] or [norms > 0], axis=0)
    order = np.lexsort((-times, -norms)).tolist()
    true = [i for i in order if i < len(reading.sensors)]
    irrelevant = [i for i in order if i >= len(reading.sensors) and (norms[i] or times[i] > 1)]
    return sorted(true[:MOST_SENSORS]) + sorted(irrelevant[:MOST_IRRELEVANT])


def _columns(reading: Reading) -> bool:
    return bool(reading.formulas) and len(reading.motors) <= MOST_COLUMNS


def _cells(reading: Reading, kernel: Float[np.ndarray, "inputs outputs"], shown: list[int]) -> Any:
    rows = kernel[shown]
    if not _columns(reading):
        rows = np.linalg.norm(rows, axis=1, keepdims=True)
    return [[_short(x) for x in row] for row in rows.tolist()]


def _short(x: float) -> float:
    """Four significant digits; what lives stays apart from 0."""
    return float(f"{x:.4g}")


def _table(reading: Reading, shown: list[int]) -> dict[str, Any]:
    names, hidden = reading.inputs, len(reading.weights) - len(shown)
    others = np.delete(reading.weights, shown, axis=0).any(1).sum()
    are = f"{others} of them read" if others else "none of them read"
    return {
        "columns": list(reading.motors) if _columns(reading) else ["norm of its weights"],
        "rows": [names[i] for i in shown],
        "weights": _cells(reading, reading.weights, shown),
        "hidden": f"and {hidden} more inputs, {are}" if hidden else "",
    }


def _point(point: Pruned, reading: Reading | None, shown: list[int]) -> dict[str, Any]:
    score = point.score
    told: dict[str, Any] = {"k": point.k, "kept": None}
    told |= {name: round(getattr(score, name), 2) for name in ("mean", "low", "high")}
    if reading is not None and point.kernel is not None:
        told["kept"] = _mask(reading, point.kernel[shown])
    return told


def _mask(reading: Reading, rows: Float[np.ndarray, "shown outputs"]) -> list[list[int]]:
    kept = rows if _columns(reading) else np.linalg.norm(rows, axis=1, keepdims=True)
    return kept.astype(bool).astype(int).tolist()


def _history(run: Run, shown: list[int]) -> dict[str, Any] | None:
    if len(run.kernels) < 2 or run.reading is None:
        return None
    width = len(run.reading.motors) if _columns(run.reading) else 1
    most = max(2, MOST_NUMBERS // (len(shown) * width))
    generations = sorted(run.kernels)
    places = np.unique(np.linspace(0, len(generations) - 1, min(most, len(generations))).round())
    chosen = [generations[int(i)] for i in places]
    return {
        "generations": chosen,
        "weights": [_cells(run.reading, run.kernels[g], shown) for g in chosen],
    }


# -------------------------------------------------------------------------- several runs, compared


def comparison(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each set of settings, with the seeds that were run of it."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        kept = [value for name, value in run.settings.items() if name != "seed"]
        groups.setdefault((run.task, *kept), []).append(run)
    return [_compared(members) for members in groups.values()]


def differences(runs: Sequence[Run]) -> list[str]:
    """Names of the settings in which runs differ."""
    return [n for n in runs[0].settings if len({run.settings[n] for run in runs}) > 1]


def ranking(rows: list[dict[str, str]]) -> str:
    """Tells in one sentence which settings did best on each task."""
    if len(rows) == 1:
        (row,) = rows
        return (
            f"{row['seeds']} runs of {row['task']} with the same settings: the interquartile mean "
            f"of their returns is {row['IQM']}."
        )
    best = {}
    for row in rows:
        if (
            row["IQM"] != "–"
            and float(row["IQM"]) > float(best.get(row["task"], row)["IQM"]) - 1e-9
        ):
            best[row["task"]] = row
    told = [f"on {task} {row['runs']} did best, {row['IQM']}" for task, row in best.items()]
    return f"Of {len(rows)} settings: " + "; ".join(told) + "."


def _compared(runs: list[Run]) -> dict[str, str]:
    curves = [[p for p in curve(run.rows) if p["generation"] <= run.generation] for run in runs]
    lasts = [points[-1]["mean"] for points in curves if points]
    low, high = bootstrap_interval([lasts])
    reads = dict.fromkeys(run.reading.verdict() for run in runs if run.reading is not None)
    return {
        "task": runs[0].task,
        "runs": ", ".join(run.name for run in runs),
        "seeds": str(len(runs)),
        "mean": f"{np.mean(lasts):.1f}" if lasts else "–",
        "IQM": f"{iqm(lasts):.1f}" if lasts else "–",
        "95 % interval": "–" if np.isnan(low) else f"{low:.1f} … {high:.1f}",
        "million steps": f"{np.mean([run.steps for run in runs]) * 1e-6:.2f}",
        "policy": "; ".join(reads) or "–",
    }


LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": "/", "…": r"\dots ", "~": " ", "^": " "}
)


def as_latex(rows: list[dict[str, str]]) -> str:
    """The rows as a tabular of LaTeX."""
    if not rows:
        return ""
    lines = [
        " & ".join(text.translate(LATEX) for text in row) + r" \\"
        for row in (rows[0], *(r.values() for r in rows))
    ]
    columns = "l" * len(rows[0])
    body = "\n".join([lines[0], r"\hline", *lines[1:]])
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(name: str, content: bytes) -> str:
    """A film or a still as an address that holds it whole, by the ending of its file's name."""
    kinds = {".webp": "image/webp", ".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}
    return _uri(kinds[Path(name).suffix], content)
