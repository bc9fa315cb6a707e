"""What a notebook shows of a run: what came out in one sentence, its law and its pictures."""

from base64 import b64encode
from html import escape
from pathlib import Path

from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import EvaluationRow, Row

PICTURES = {
    "learning_curve.png": "learning curve",
    "sensors.png": "sensors that the policy reads",
    "segments.png": "weights by segment of the observation",
}
"""Pictures of a run folder, and what they show."""


def sentence(task: str, rows: list[Row], reading: Reading | None) -> str:
    """Tells what a run came to: its last return, what that took, and what the policy reads."""
    evaluations = [row.evaluation for row in rows if row.evaluation is not None]
    came_out = _return(evaluations[-1]) if evaluations else "not evaluated yet"
    generations = max((row.generation for row in rows), default=0)
    steps = sum(row.steps for row in rows)
    told = f"{task}: {came_out} after {generations:,} generations, {steps:,} steps"
    return told if reading is None else f"{told}; {reading.verdict()}"


def fragment(told: str, reading: Reading | None, folder: Path) -> str:
    """Writes a sentence, the law of a policy if it is short, and the pictures of a folder as HTML.

    The pictures are within it, so that it needs no file and no network.
    """
    parts = [f"<p>{escape(told)}</p>"]
    if lines := "\n".join(reading.short_law() if reading is not None else []):
        parts.append(f"<pre>{escape(lines)}</pre>")
    for name, about in PICTURES.items():
        if (path := folder / name).is_file():
            data = b64encode(path.read_bytes()).decode()
            source = f"data:image/png;base64,{data}"
            parts.append(
                f'<img alt="{about}" style="max-width: 100%; height: 20em" src="{source}">'
            )
    return f"<div>{''.join(parts)}</div>"


def _return(last: EvaluationRow) -> str:
    if last.mean is None:
        return "no finite return"
    if last.low is None or last.high is None:
        return f"return {last.mean:.1f}"
    return f"return {last.mean:.1f} (95 % interval {last.low:.1f} … {last.high:.1f})"
