"""Trained sparse policies that come with the package, each a run folder of a few kilobytes.

An entry has config, policies and evaluations of its run, and a card: what it earns on fresh
episodes, and the command that trained it. It has no checkpoint, so it cannot be trained further.
"""

import json
from pathlib import Path
from typing import NamedTuple

from nesht_jax.envs.catalog import nearest

ZOO = Path(__file__).parents[1] / "zoo"

PREFIX = "zoo/"
"""What the name of an entry begins with on the command line."""


class Card(NamedTuple):
    """What is told of an entry.

    Attributes:
        task: suite and task.
        distractors: N of ×N, among which it was trained.
        policy: what it reads, in words.
        weights: number of weights that live.
        mean: mean undiscounted return of fresh episodes.
        low: lower end of the mean's 95 % confidence interval.
        high: upper end of the interval.
        episodes: number of these episodes.
        steps: useful environment steps that it was trained for.
        seed: seed of its run.
        command: command that trained it.
    """

    task: str
    distractors: int
    policy: str
    weights: int
    mean: float
    low: float
    high: float
    episodes: int
    steps: int
    seed: int
    command: str


def cards() -> dict[str, Card]:
    """Reads the cards of all entries, by name."""
    return {
        path.parent.name: Card(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(ZOO.glob("*/card.json"))
    }


def run_folder(text: str) -> Path:
    """Finds the folder that a word of the command line means: a run's, or an entry's.

    Raises:
        ValueError: if it begins as an entry's name, and no entry or folder has it.
    """
    if not text.startswith(PREFIX) or Path(text).is_dir():
        return Path(text)
    name = text.removeprefix(PREFIX)
    if not (ZOO / name / "card.json").is_file():
        raise ValueError(f"there is no {text}; {nearest(name, cards())}, see `nesht zoo`")
    return ZOO / name


def default_out(folder: Path, file: str) -> Path:
    """Where a command leaves its file: in the run folder; of an entry beside the user."""
    return Path(f"{folder.name}_{file}") if folder.parent == ZOO else folder / file
