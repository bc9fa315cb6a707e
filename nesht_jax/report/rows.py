"""The metrics of a run: one row a generation, with a schema, as lines of JSON."""

import csv
import functools
import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

CONTAINERS: dict[str, Any] = {"agent": dict, "segment_norms": list}
"""What holds several numbers in a row, by name; all else is one."""

_hints = functools.cache(get_type_hints)


class EvaluationRow(NamedTuple):
    """One evaluation of the center, as sparse as the method makes it.

    Attributes:
        mean: mean undiscounted return of the episodes that did not fail.
        standard_error: standard error of the mean.
        low: lower end of the mean's 95 % confidence interval (Student's t).
        high: upper end of the interval.
        episodes: number of episodes, failed ones included.
        failed: number of episodes that failed: shown or paid what is not finite.
        steps: mean length of an episode in environment steps.
        sparsity: fraction of weights that do not live.
        segment_norms: norm of the first layer's weights on each segment of the observation, the
            true one first, then the distractors; empty where the policy does not tell its layers.
    """

    mean: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    episodes: int
    failed: int
    steps: float | None
    sparsity: float
    segment_norms: list[float]


class Row(NamedTuple):
    """The metrics of one generation; None where there is none, or it is not finite.

    Attributes:
        generation: number of the generation, counted from 1; row 0 is the evaluation before.
        seconds: wall-clock time of the generation.
        fitness_mean: see ``es.nes.Info``, as all down to ``sigma``. Of an agent the mean return of
            the episodes that ended, and ``failed`` how many of these failed.
        steps: useful environment steps.
        simulated_steps: all environment steps, idle ones included.
        center_fitness: see ``es.nes.Info``, as the next two; None where nothing is searched.
        distinct_architectures: number of different architectures among the members.
        edges: entries of the kernels that live, in the mean over the members.
        agent: losses, and what else an agent tells of its updates, by name; None without one.
        frames: emulator frames of the useful steps; None where a task has none.
        evaluation: the evaluation after this generation, if one was due.
    """

    generation: int
    seconds: float = 0.0
    fitness_mean: float | None = None
    fitness_std: float | None = None
    fitness_max: float | None = None
    failed: int = 0
    skipped: bool = False
    dropped_moments: bool = False
    gradient_norm: float | None = None
    gradient_snr: float | None = None
    params_norm: float | None = None
    sparsity: float | None = None
    sigma: float | None = None
    steps: int = 0
    simulated_steps: int = 0
    center_fitness: float | None = None
    distinct_architectures: int | None = None
    edges: float | None = None
    agent: dict[str, float | None] | None = None
    frames: int | None = None
    evaluation: EvaluationRow | None = None


def finite(value: Any) -> Any:
    """The value with None in place of every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(row: Row) -> str:
    """The row as one line of JSON, fields without a value left out."""
    plain = {name: value for name, value in row._asdict().items() if value is not None}
    if row.evaluation is not None:
        plain["evaluation"] = row.evaluation._asdict()
    return json.dumps(finite(plain), allow_nan=False)


def from_json(line: str) -> Row:
    """The row of one line.

    Raises:
        ValueError: if the line is no JSON, or no row.
    """
    try:
        plain = json.loads(line)
        evaluation = plain.pop("evaluation", None)
        if evaluation is not None:
            evaluation = EvaluationRow(**_checked(EvaluationRow, evaluation))
        return Row(**_checked(Row, plain), evaluation=evaluation)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"no row of metrics: {line[:80]!r}") from error


def _checked(record: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """The values of a record, which are numbers, or hold numbers.

    Raises:
        TypeError: if one is something else, or lacks where there must be one.
    """
    for name, value in plain.items():
        kind = CONTAINERS.get(name, int | float)
        parts = value.values() if isinstance(value, dict) else value
        numbers = parts if isinstance(value, dict | list) else [value]
        is_known = isinstance(value, kind) and all(_is_number(part) for part in numbers)
        may_lack = type(None) in get_args(_hints(record).get(name))
        if not (is_known or (value is None and may_lack)):
            raise TypeError(name)
    return plain


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that a kill cut short is left out.

    Raises:
        ValueError: naming the file, if it is no text; or the line, if another line is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(from_json(line))
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is damaged: {error}") from error
    return rows


def evaluations(rows: list[Row]) -> dict[int, EvaluationRow]:
    """Lists the evaluations of a run by generation."""
    return {row.generation: row.evaluation for row in rows if row.evaluation is not None}


def best_evaluation(rows: list[Row]) -> tuple[int, EvaluationRow] | None:
    """Finds the evaluation of the highest mean return, the last of equals, with its generation.

    None if there is none, or all episodes of all of them failed.
    """
    known = [(n, found) for n, found in evaluations(rows).items() if found.mean is not None]
    return max(reversed(known), key=lambda pair: pair[1].mean or 0.0, default=None)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Writes the rows of a table as CSV, with a line of names; nothing of no rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
