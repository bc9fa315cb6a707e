"""How a body moved while it learned: films of the first, middle and last policy of a run in one."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from nesht_jax.run.ambient import pinned
from nesht_jax.run.load import load
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.render import INK, PAPER, Film, Picture, check_film, multiple, played

WIDTH = 272
"""Pixels that each body is wide: three fit into a page of Markdown."""


class Trial(NamedTuple):
    """One episode of what a run had learned at an evaluation.

    Attributes:
        generation: number of the generation.
        film: film of the episode, captioned with the generation and the return that the evaluation
            measured.
    """

    generation: int
    film: Film


@pinned()
def film_trials(
    folder: Path, *, seed: int = 0, steps: int | None = None, trust: bool = False
) -> list[Trial]:
    """Films the first, the middle and the last evaluation that a run keeps, from one reset.

    Args:
        folder: run folder.
        seed: seed of reset and distractors.
        steps: steps after which each film ends; see ``film``.
        trust: see ``load``.

    Raises:
        ValueError: if the run does not read, is not trusted or keeps one evaluation only, or
            nothing draws its task.
    """
    check_film(seed, steps)
    arrays = read_arrays(folder)
    returns = dict(zip(arrays["generation"].tolist(), arrays["return"].tolist(), strict=True))
    if len(returns) == 1:
        raise ValueError(f"{folder} keeps the policy of one evaluation: a grid needs at least two")
    trials = []
    for generation in early_middle_last(sorted(returns)):
        mean = returns[generation]
        earned = "no finite return" if np.isnan(mean) else f"mean return {mean:.0f}"
        draw = partial(captioned, f"generation {generation} · {earned}")
        policy = load(folder, generation, trust=trust)
        trials.append(Trial(generation, played(policy, draw, seed=seed, steps=steps)))
    return trials


def early_middle_last(generations: Sequence[int]) -> list[int]:
    """Chooses the first, the one nearest to halfway, and the last; each once."""
    first, last = generations[0], generations[-1]
    middle = min(generations, key=lambda generation: abs(generation - (first + last) / 2))
    return list(dict.fromkeys((first, middle, last)))


def captioned(
    title: str, picture: Picture, seen: Float[np.ndarray, " features"], caption: str
) -> UInt8[np.ndarray, "tall wide 3"]:
    """A body, smaller, below its title and caption."""
    del seen
    height, width, _ = picture.shape
    wide = WIDTH - 4  # a gap to the next
    tall = round(height * wide / width)
    page = Image.new("RGB", (WIDTH, multiple(tall + 44)), PAPER)
    page.paste(Image.fromarray(picture).resize((wide, tall)), (0, 44))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    draw.text((8, 4), title, INK, font)
    draw.text((8, 23), caption, INK, font)
    return np.asarray(page)


def side_by_side(
    films: Sequence[Sequence[Picture]],
) -> list[UInt8[np.ndarray, "height joined 3"]]:
    """Joins films; the last picture of one that has ended stays."""
    return [
        np.hstack([pictures[min(i, len(pictures) - 1)] for pictures in films])
        for i in range(max(map(len, films)))
    ]
