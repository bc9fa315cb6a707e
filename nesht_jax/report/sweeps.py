"""What a sweep came to: a row for each run, and all runs of a combination of settings as one."""

import json
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import Row, csv_text
from nesht_jax.report.statistics import bootstrap_interval


class SweptRun(NamedTuple):
    """One run of a sweep.

    Attributes:
        values: values of the options that the sweep varies, by their names.
        seed: seed of the run.
        name: name of the run folder.
        metrics: metrics of the run.
        reading: what the policy reads at the end; None of images.
    """

    values: dict[str, Any]
    seed: int
    name: str
    metrics: list[Row]
    reading: Reading | None

    def row(self) -> dict[str, Any]:
        """Gives the run as a row of the table; None where it has no such number."""
        last = [row.evaluation for row in self.metrics if row.evaluation is not None][-1:]
        read = None if self.reading is None else self.reading.read
        return {
            **self.values,
            "seed": self.seed,
            "return": last[0].mean if last else None,
            "standard_error": last[0].standard_error if last else None,
            "sensors": None if read is None else read[0].size,
            "sensors_read": None if read is None else int(read[0].sum()),
            "irrelevant": None if read is None else read[1:].size,
            "irrelevant_read": None if read is None else int(read[1:].sum()),
            "steps": sum(row.steps for row in self.metrics),
            "run": self.name,
        }

    def curve(self) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
        """Gives steps and return of each evaluation, those without a return left out."""
        steps = np.cumsum([row.steps for row in self.metrics])
        points = [
            (at, row.evaluation.mean)
            for at, row in zip(steps, self.metrics, strict=True)
            if row.evaluation is not None and row.evaluation.mean is not None
        ]
        at, mean = np.array(points, float).reshape(-1, 2).T
        return at, mean


class Combination(NamedTuple):
    """All runs of one combination of values, one for each seed.

    Attributes:
        values: values of the options that the sweep varies, by their names.
        runs: runs with these values.
    """

    values: dict[str, Any]
    runs: list[SweptRun]

    def column(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Gives one column of the rows of its runs, NaN where a run has no such number."""
        return np.array([run.row()[name] for run in self.runs], float)

    def interval(self) -> tuple[float, float]:
        """Gives the 95 % bootstrap interval of the mean return over seeds.

        NaN of one seed, or where a run has no return.
        """
        returns = self.column("return")
        if np.isnan(returns).any():
            return math.nan, math.nan
        return bootstrap_interval([returns.tolist()], np.mean)


def combinations(runs: list[SweptRun]) -> list[Combination]:
    """Gathers the runs of a sweep by the values of the options that it varies."""
    found: list[Combination] = []
    for run in runs:
        same = [combination for combination in found if combination.values == run.values]
        if same:
            same[0].runs.append(run)
        else:
            found.append(Combination(run.values, [run]))
    return found


def csv_table(runs: list[SweptRun]) -> str:
    """Writes the rows of a sweep as CSV; a cell is empty where a run has no such number."""
    rows = [
        run.row() | {name: as_text(value) for name, value in run.values.items()} for run in runs
    ]
    return csv_text(rows)


def as_text(value: Any) -> str:
    """Writes the value of an option as the command line takes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isinf(value):
        return ".inf"
    return json.dumps(value, ensure_ascii=False)


def in_words(values: dict[str, Any]) -> str:
    """Writes the values of options in one phrase."""
    return ", ".join(f"{name} {as_text(value)}" for name, value in values.items())
