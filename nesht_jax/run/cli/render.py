"""Film a trained policy, with its sensors beside it: those that it reads in color."""

import argparse
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.options import add_generation, add_trust, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import default_out, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht render`` takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="film, as .webp, .gif or .mp4 [RUN/film.webp]"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of reset and distractors [0]")
    parser.add_argument("--steps", type=int, help="steps after which the film ends [20 seconds]")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and plays the episode."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    folder = run_folder(given.run)
    config = read_config(folder, trust=given.trust)
    out = given.out or default_out(folder, "film.webp")
    keep_compilations()
    from nesht_jax.run.render import check_format, film, write_film

    check_format(out)
    made = film(
        folder,
        generation=given.generation,
        seed=given.seed,
        steps=given.steps,
        trust=given.trust,
    )

    def work() -> int:
        write_film(made, out)
        if made.task != config.task:
            print(f"{config.task} draws nothing, so {made.task} was played in its place")
        end = "" if made.over else ", where the film ends"
        print(f"return {made.total:.1f} after {made.steps} steps{end}")
        print(f"{out}: {len(made.pictures)} pictures, {out.stat().st_size / 2**20:.1f} MiB")
        return 0

    return work
