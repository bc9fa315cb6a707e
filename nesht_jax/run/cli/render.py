"""Film a trained policy, with its sensors beside it: those that it reads in color.

With --grid: how it played early in training, halfway and last, side by side.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.options import add_generation, add_trust, check_out, refuse_unknown
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.yaml import read_config
from nesht_jax.run.zoo import default_out, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht render`` takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or zoo/NAME")
    add_generation(parser)
    add_trust(parser)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="film the first, the middle and the last evaluation side by side, from one reset",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="film, as .webp, .gif or .mp4 [RUN/film.webp; of a grid RUN/grid.webp]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of reset and distractors [0]")
    parser.add_argument("--steps", type=int, help="steps after which the film ends [20 seconds]")


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and plays the episodes."""
    given, leftover = parser.parse_known_args(argv)
    refuse_unknown(leftover, parser)
    folder = run_folder(given.run)
    config = read_config(folder, trust=given.trust)
    if given.grid and given.generation is not None:
        raise ValueError("--grid chooses its generations: leave out --generation")
    out = given.out or default_out(folder, "grid.webp" if given.grid else "film.webp")
    check_out(out)
    keep_compilations()
    from nesht_jax.run.render import check_format, film, write_film
    from nesht_jax.run.trials import film_trials, side_by_side

    check_format(out)
    options = {"seed": given.seed, "steps": given.steps, "trust": given.trust}
    if given.grid:
        trials = film_trials(folder, **options)
        films = {f"generation {trial.generation}: ": trial.film for trial in trials}
        pictures = side_by_side([trial.film.pictures for trial in trials])
    else:
        films = {"": film(folder, generation=given.generation, **options)}
        pictures = films[""].pictures
    made = next(iter(films.values()))

    def work() -> int:
        write_film(pictures, out, seconds=made.seconds)
        if made.task != config.task:
            print(f"{config.task} draws nothing, so {made.task} was played in its place")
        for whose, one in films.items():
            end = "" if one.over else ", where the film ends"
            print(f"{whose}return {one.total:.1f} after {one.steps} steps{end}")
        print(f"{out}: {len(pictures)} pictures, {out.stat().st_size / 2**20:.1f} MiB")
        return 0

    return work
