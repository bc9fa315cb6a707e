"""What a run leaves while it goes: metrics as lines of JSON, and a live display."""

import math
import os
import time
from collections import deque
from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from nesht_jax.report.rows import EvaluationRow, Row, finite, read_rows, to_json
from nesht_jax.run.config import Config
from nesht_jax.run.track import Tracker
from nesht_jax.run.yaml import write


class Metrics:
    """Appends rows to ``metrics.jsonl``, a flush a generation, and hands them to a tracker."""

    def __init__(self, config: Config, *, generation: int) -> None:
        """Opens both; rows after ``generation``, which a resumed run makes again, go."""
        path = config.folder / "metrics.jsonl"
        rows = read_rows(path) if path.exists() else []
        self.rows = [row for row in rows if row.generation <= generation]
        write(path, "".join(to_json(row) + "\n" for row in self.rows))
        self._tracker = Tracker(config, rows, generation=generation) if config.track else None
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def check(self) -> None:
        """Looks whether the file is still the one that was opened.

        Raises:
            FileNotFoundError: if it was moved or removed, alone or with its folder.
        """
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            same = False
        if not same:
            raise FileNotFoundError(
                f"{self._path} or its folder was moved or removed while the run trained, or "
                "another process went on with it; this one stops, and saves nothing more"
            )

    def append(self, row: Row) -> None:
        """Writes one row; numbers that are not finite become None."""
        row = Row(**finite(row._asdict() | {"evaluation": None}))._replace(
            evaluation=row.evaluation and EvaluationRow(**finite(row.evaluation._asdict()))
        )
        self.rows.append(row)
        self._file.write(to_json(row) + "\n")
        self._file.flush()
        if self._tracker:
            self._tracker.append(row)

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        if self._tracker:
            self._tracker.close()


def by_generation(runs: list[list[Row]]) -> list[Row]:
    """Gathers the rows of runs that are trained side by side: one of all runs a generation."""
    found: dict[int, list[Row]] = {}
    for row in (row for rows in runs for row in rows):
        found.setdefault(row.generation, []).append(row)
    return [_of_all(found[generation]) for generation in sorted(found)]


def _of_all(rows: list[Row]) -> Row:
    """What a display shows of a generation of several runs: means, and sums of what is counted."""
    if len(rows) == 1:
        return rows[0]
    counted = "failed", "skipped", "dropped_moments", "steps", "simulated_steps"
    sums = {name: sum(getattr(row, name) for row in rows) for name in counted}
    frames = [row.frames for row in rows if row.frames is not None]
    evaluated = [row.evaluation for row in rows if row.evaluation is not None]
    return rows[0]._replace(
        **sums,
        frames=sum(frames) if frames else None,
        fitness_mean=_mean(row.fitness_mean for row in rows),
        evaluation=evaluated[0]._replace(
            mean=_mean(e.mean for e in evaluated),
            failed=sum(e.failed for e in evaluated),
            episodes=sum(e.episodes for e in evaluated),
            sparsity=_mean(e.sparsity for e in evaluated),
        )
        if evaluated
        else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    sound = [value for value in values if value is not None and math.isfinite(value)]
    return sum(sound) / len(sound) if sound else None


class Display:
    """Two live lines on a terminal; elsewhere a line for each evaluation."""

    RATE_WINDOW = 20
    """Generations over which steps per second are averaged."""

    def __init__(
        self, console: Console, *, total: int | None, by_steps: bool, rows: list[Row]
    ) -> None:
        self._console, self._by_steps, self._steps = console, by_steps, 0
        self._bar = Progress(
            TextColumn("step" if by_steps else "generation"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, left="")
        self._evaluation: EvaluationRow | None = None
        self._population: Row | None = None
        self._failed = self._skipped = self._dropped = 0
        self._what_fails = "members"
        self._recent: deque[tuple[float, Row]] = deque(maxlen=self.RATE_WINDOW)
        self._live = Live(self._two_lines("compiling ..."), console=console)
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
        left = self._left()
        if self._console.is_terminal:
            self._bar.update(self._task, left=left)
            self._live.update(self._two_lines(self._line()))
        elif row.evaluation is not None:
            told = f"generation {row.generation}: {self._line()}{left and f' · {left}'}"
            self._console.print(told, soft_wrap=True, markup=False)

    def _two_lines(self, line: str) -> Group:
        return Group(self._bar, Text(line, no_wrap=True, overflow="ellipsis"))

    def _take(self, row: Row) -> None:
        self._steps += row.steps
        self._bar.update(self._task, completed=self._steps if self._by_steps else row.generation)
        self._evaluation = row.evaluation or self._evaluation
        has_members = row.agent is None and (row.fitness_std is not None or row.failed)
        self._population = row if has_members else self._population
        self._what_fails = "members" if row.agent is None else "episodes"
        self._failed += row.failed
        self._skipped += row.skipped
        self._dropped += row.dropped_moments

    def _line(self) -> str:
        parts = []
        if self._evaluation:
            parts.append(f"return {_number(self._evaluation.mean)}")
            if self._evaluation.failed:
                parts[-1] += f" ({self._evaluation.failed} of {self._evaluation.episodes} failed)"
            parts.append(f"sparsity {self._evaluation.sparsity:.2f}")
        if self._population:
            parts.append(f"population {_number(self._population.fitness_mean)}")
        parts += self._rates()
        for count, what in (
            (self._failed, f"failed {self._what_fails}"),
            (self._skipped, "skipped updates"),
            (self._dropped, "dropped moments"),
        ):
            parts += [f"{count} {what}"] if count else []
        return " · ".join(parts)

    def _left(self) -> str:
        """The time that is left at the present pace, once two rows tell of one."""
        rows, elapsed = self._lately()
        (bar,) = self._bar.tasks
        done = sum(row.steps for row in rows) if self._by_steps else len(rows)
        if not bar.remaining or bar.remaining < 0 or not done or elapsed <= 0:
            return ""
        return f"{timedelta(seconds=round(bar.remaining * elapsed / done))} left"

    def _lately(self) -> tuple[list[Row], float]:
        """The last rows but for the first of them, and the seconds that they took."""
        rows = [row for _, row in list(self._recent)[1:]]
        return rows, self._recent[-1][0] - self._recent[0][0] if self._recent else 0.0

    def _rates(self) -> list[str]:
        """Steps and frames a second, once two rows tell of a time between them."""
        rows, elapsed = self._lately()
        steps, simulated = (sum(getattr(r, n) for r in rows) for n in ("steps", "simulated_steps"))
        if not steps or elapsed <= 0:
            return []
        rates = [f"{steps / elapsed:,.0f} steps/s"]
        frames = sum(row.frames or 0 for row in rows)
        if frames:
            rates.append(f"{frames / elapsed:,.0f} frames/s")
        share = f"{steps / simulated:.2f}"
        return rates if share == "1.00" else [*rates, f"useful share {share}"]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"
