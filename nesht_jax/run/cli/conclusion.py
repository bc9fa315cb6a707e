"""What a run tells at its end: what was learned, and where it lies."""

import shlex

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nesht_jax.envs.catalog import module_of
from nesht_jax.report.human import human_normalized
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import EvaluationRow, best_evaluation, evaluations
from nesht_jax.run.config import Config
from nesht_jax.run.result import Result
from nesht_jax.types import is_phantom

FILES = {
    "learning curve": "learning_curve.png",
    "sensors": "sensors.png",
    "weights by segment": "segments.png",
    "architecture": "architecture.png",
    "search": "search.png",
    "metrics": "metrics.jsonl",
}


def conclude(console: Console, config: Config, result: Result) -> None:
    """Prints the last evaluation and the files of a run, or how to go on with it."""
    generation = int(result.state.generation)
    if result.interrupted:
        stopped = f"Stopped by {result.interrupted.name} after generation {generation}"
        say(console, f"{stopped}; go on with: {how_to_go_on(config)}")
        return
    run = _named(config)
    steps = sum(row.steps for row in result.rows)
    title = f"{escape(config.task)} after {generation} generations, {steps:,} steps"
    table = Table(title=title, show_header=False)
    evaluated = list(evaluations(result.rows).items())
    best = best_evaluation(result.rows)
    if evaluated:
        paths = jax.tree_util.tree_flatten_with_path(result.state.params)[0]
        weights = sum(leaf.size for path, leaf in paths if not is_phantom(path))
        for what, value in _learned(config, evaluated[-1][1], weights, result.size):
            table.add_row(what, escape(value))
    if best is not None and best != evaluated[-1]:
        table.add_row("best evaluation", f"{best[1].mean:.1f} at generation {best[0]}")
    if result.reading is not None:
        table.add_row("policy", result.reading.verdict())
    for what, name in FILES.items():
        if (result.folder / name).exists():
            table.add_row(what, escape(str(result.folder / name)))
    console.print(table)
    print_law(console, result.reading)
    for what, count in (
        ("members failed", sum(row.failed for row in result.rows)),
        ("updates were skipped", sum(row.skipped for row in result.rows)),
    ):
        if count:
            say(console, f"{count} {what}: something was not a finite number; see metrics.jsonl")
    say(console, f"Evaluate it on fresh episodes: nesht eval {run}")
    if best is not None and best != evaluated[-1]:
        say(console, "Evaluate what it was at its best evaluation: add --generation best")
    if config.agent.learning_rate_decay:
        return  # it is 0 now
    limit = config.step_limit
    more = f"--generations {2 * generation}"
    if limit is not None and steps >= limit:
        more = f"--steps {2 * limit if steps < 2 * limit else 2 * steps}"
    say(console, f"Train it further: {how_to_go_on(config)} {more}")


def how_to_go_on(config: Config) -> str:
    """The command that goes on with a run."""
    return f"nesht train --resume {_named(config)}"


def _named(config: Config) -> str:
    """The run folder as a command takes it, with what its task asks for."""
    trust = " --trust" if module_of(config.task) else ""
    return shlex.quote(str(config.folder)) + trust


def print_law(console: Console, reading: Reading | None) -> None:
    """Prints the formulas of a linear policy that reads few inputs; nothing of any other."""
    for line in reading.short_law() if reading is not None else []:
        say(console, line)


def _learned(config: Config, last: EvaluationRow, weights: int, size: str) -> list[tuple[str, str]]:
    error = "" if last.standard_error is None else f" ± {last.standard_error:.1f}"
    mean = "none" if last.mean is None else f"{last.mean:.1f}{error}"
    failed = f", {last.failed} of {last.episodes} episodes failed" if last.failed else ""
    kept = round((1 - last.sparsity) * weights)
    whose = "thresholded center" if config.sparsity.cuts else "center"
    if config.agent.name is not None or config.sparsity.selects:
        whose = "policy"
    told = [(f"return of the {whose}", mean + failed)]
    normalized = None if last.mean is None else human_normalized(config.task, last.mean)
    if normalized is not None:
        told.append(("human-normalized", f"{normalized:.3f}"))
    kept_of = f"{kept} of {weights}, sparsity {last.sparsity:.3f}"
    told.append(("size", size) if size else ("weights kept", kept_of))
    if len(last.segment_norms) > 1:
        true, *distractors = last.segment_norms
        mean = sum(distractors) / len(distractors)
        against = f"{true / mean:.1f} × the mean distractor" if mean else "distractors all zeroed"
        told.append(("weight norm on the true observation", f"{true:.3g}, {against}"))
    return told


def say(console: Console, words: str) -> None:
    """Prints words as they are, however long the line."""
    console.print(words, soft_wrap=True, markup=False, emoji=False, highlight=False)
