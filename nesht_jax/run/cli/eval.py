"""Play many episodes with what a run has learned, with and without threshold."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from nesht_jax.report.human import human_normalized
from nesht_jax.report.rows import finite
from nesht_jax.run.cli.options import add_generation, add_trust, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.names import resolve_task
from nesht_jax.run.yaml import parse, read_config
from nesht_jax.run.zoo import run_folder

if TYPE_CHECKING:
    from nesht_jax.run.evaluate import RunScore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht eval`` takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument("--episodes", type=int, default=100, help="number of episodes [100]")
    parser.add_argument("--task", help="another task of the same sizes, as envpool/Hopper-v5")
    parser.add_argument(
        "--task_options",
        default="{}",
        metavar="{NAME: VALUE}",
        help="options over those of the run, as {pixel_noise: 10} for noise on Atari's frames",
    )
    parser.add_argument(
        "--observation_noise",
        type=float,
        default=0.0,
        metavar="DEVIATION",
        help="Gaussian noise on what the policy sees, in standard deviations of each feature [0]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of resets and distractors [0]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and plays the episodes."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    options = parse(given.task_options, "--task_options")
    if not isinstance(options, dict):
        raise ValueError(f"task_options must be a mapping, as {{name: value}}, got {options!r}")
    folder = run_folder(given.run)
    read_config(folder, trust=given.trust)  # says what is wrong with it before JAX is loaded
    task = given.task and resolve_task(given.task, accelerator=False).task
    keep_compilations()
    from nesht_jax.run.evaluate import evaluate_run

    # what simulators print must not stand among the JSON
    quiet = contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext()
    with quiet:
        scores = evaluate_run(
            folder,
            episodes=given.episodes,
            generation=given.generation,
            task=task,
            options=options,
            observation_noise=given.observation_noise,
            seed=given.seed,
            trust=given.trust,
        )
    if given.json:
        return lambda: _print_json(scores)
    return lambda: _print_table(given, scores)


def _print_json(scores: "RunScore") -> int:
    center = scores.center and scores.center._asdict()
    plain = scores._asdict() | {"thresholded": scores.thresholded._asdict(), "center": center}
    del plain["reading"]
    reads = scores.reading
    if reads is not None:
        plain |= {"policy": reads.verdict(), "law": reads.law()}
    print(json.dumps(finite(plain), allow_nan=False))
    return 0


def _print_table(given: argparse.Namespace, scores: "RunScore") -> int:
    from rich.console import Console
    from rich.table import Table

    from nesht_jax.run.cli.conclusion import print_law

    console = Console()
    console.print(
        f"{given.run} after {scores.generation} generations, played on {scores.task}: "
        f"{given.episodes} episodes each, from the same resets",
        soft_wrap=True,
        markup=False,
        emoji=False,
    )
    table = Table()
    for heading in ("", "return", "std error", "95 % interval", "sparsity", "length"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    played = {"with threshold": (scores.thresholded, scores.thresholded_sparsity)}
    if scores.center is not None and scores.center_sparsity is not None:
        played["without threshold"] = scores.center, scores.center_sparsity
    alone = given.episodes == 1  # has no standard error
    for name, (score, sparsity) in played.items():
        table.add_row(
            name,
            f"{score.mean:.1f}",
            "none" if alone else f"{score.standard_error:.1f}",
            "none" if alone else f"{score.low:.1f} … {score.high:.1f}",
            f"{sparsity:.3f}",
            f"{score.steps:.0f}",
        )
    console.print(table)
    for name, (score, _) in played.items():
        if score.failed:
            console.print(
                f"{score.failed} episodes {name} failed, shown or paid what is not finite"
            )
    if scores.reading is not None:
        console.print(f"The policy {scores.reading.verdict()}.", soft_wrap=True, highlight=False)
    print_law(console, scores.reading)
    normalized = {name: human_normalized(scores.task, s.mean) for name, (s, _) in played.items()}
    told = [f"{value:.3f} {name}" for name, value in normalized.items() if value is not None]
    if told:
        console.print(f"human-normalized: {', '.join(told)}", soft_wrap=True)
    return 0
