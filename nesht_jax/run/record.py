"""What a run leaves while it goes: metrics as JSON lines and TensorBoard, and a live display."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from tensorboardX import SummaryWriter

Row = dict[str, Any]
"""The metrics of one generation, counted from 1; row 0 holds the first evaluation alone."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Metrics:
    """Appends rows to ``metrics.jsonl`` and to TensorBoard, a line and a flush a generation."""

    def __init__(self, folder: Path, *, generation: int) -> None:
        """Opens the files; rows after ``generation``, which a resumed run makes again, go."""
        path = folder / "metrics.jsonl"
        self.rows = (
            [r for r in read_rows(path) if r["generation"] <= generation] if (path.exists()) else []
        )
        kept = path.with_suffix(".kept")
        kept.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        os.replace(kept, path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=generation + 1)

    def append(self, row: Row) -> None:
        """Writes one row; non-finite numbers become null, which JSON can hold."""
        row = {name: _finite(value) for name, value in row.items()}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in _flat(row):
            if value is not None:
                self._board.add_scalar(name, value, row["generation"])

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()


class Display:
    """A live line of progress on a terminal; elsewhere a line for each evaluation."""

    RATE_WINDOW = 20
    """Generations over which steps per second are averaged."""

    def __init__(self, console: Console, *, total: int, rows: list[Row]) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("generation"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
        )
        done = max((row["generation"] for row in rows), default=0)
        self._task = self._bar.add_task("", total=total, completed=done)
        self._evaluation: Row | None = None
        self._population: Row | None = None
        self._failed = self._skipped = 0
        self._recent: deque[tuple[float, Row]] = deque(maxlen=self.RATE_WINDOW)
        self._recent.append((time.monotonic(), {}))
        self._live = Live(Group(self._bar, Text("compiling …")), console=console)
        for row in rows:
            self._take(row)

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, row: Row) -> None:
        """Shows one more row."""
        self._take(row)
        self._recent.append((time.monotonic(), row))
        self._bar.update(self._task, completed=row["generation"])
        if self._console.is_terminal:
            self._live.update(Group(self._bar, Text(self._line())))
        elif "evaluation" in row:
            self._console.print(f"generation {row['generation']}: {self._line()}", soft_wrap=True)

    def _take(self, row: Row) -> None:
        self._evaluation = row.get("evaluation", self._evaluation)
        self._population = row if "fitness_mean" in row else self._population
        self._failed += row.get("failed", 0)
        self._skipped += row.get("skipped", False)

    def _line(self) -> str:
        parts = []
        if self._evaluation:
            parts.append(f"return of the centre {_number(self._evaluation['mean'])}")
            parts.append(f"sparsity {self._evaluation['sparsity']:.3f}")
        if self._population:
            parts.append(f"of the population {_number(self._population['fitness_mean'])}")
        elapsed = self._recent[-1][0] - self._recent[0][0]
        if elapsed > 0:
            rows = [row for _, row in list(self._recent)[1:]]
            steps, frames, simulated = (
                sum(row.get(name, 0) for row in rows) for name in ("steps", "frames", "simulated")
            )
            parts.append(f"{steps / elapsed:,.0f} useful steps/s")
            if frames:
                parts.append(f"{frames / elapsed:,.0f} frames/s")
            if simulated:
                parts.append(f"useful share {steps / simulated:.2f}")
        if self._failed:
            parts.append(f"{self._failed} failed rollouts")
        if self._skipped:
            parts.append(f"{self._skipped} skipped updates")
        return " · ".join(parts)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _flat({str(i): part for i, part in enumerate(value)}, f"{prefix}{name}/")
        else:
            yield prefix + name, value
