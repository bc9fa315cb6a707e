"""Options of which each may have several values, and the configs of every combination of them."""

import re
from argparse import Namespace
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple

from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.config import Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.settings import read_command

MOST_VALUES = 10_000
"""Numbers of a range: more are a typing error that would fill the memory."""


class Grid(NamedTuple):
    """What a sweep trains.

    Attributes:
        bases: a config for each combination of values; ``seed`` and ``out`` of them do not count.
        seeds: seeds of each.
        varied: names of the options with several values, in the order given, ``seed`` left out.
        notes: what the user should know of how the configs were made.
    """

    bases: list[Config]
    seeds: list[int]
    varied: list[str]
    notes: list[str]


def read_grid(given: Namespace) -> Grid:
    """Makes a config of each combination of values, as ``nesht train`` makes it.

    Args:
        given: command with its words in ``settings``, and a text for each option that is given.

    Raises:
        ValueError: in one sentence, if a word, an option or a value means nothing, or an option has
            the same value twice.
    """
    options = {n: text for n, text in vars(given).items() if n in leaves(Config) and n != "out"}
    texts = {name: split_values(name, text) for name, text in options.items()}
    for name in ("generations", "steps"):
        if len(texts.get(name, ())) > 1:
            raise ValueError(
                f"{name} takes one value in a sweep, got {options[name]}: a run of fewer is the "
                "beginning of a run of more"
            )
    seed_texts = texts.pop("seed", [])
    chosen = [dict(zip(texts, some, strict=True)) for some in product(*texts.values())]
    made = [_made(given.settings, some) for some in chosen]
    bases = [config for config, _ in made]
    for name, values in texts.items():
        _check_distinct(name, values, [attrgetter(name)(config) for config in bases])
    seeds = [_made(given.settings, chosen[0] | {"seed": text})[0].seed for text in seed_texts]
    _check_distinct("seed", seed_texts, seeds)
    return Grid(
        bases=bases,
        seeds=seeds or [bases[0].seed],
        varied=[name for name, values in texts.items() if len(values) > 1],
        notes=list(dict.fromkeys(note for _, notes in made for note in notes)),
    )


def _made(words: list[str], texts: dict[str, str]) -> tuple[Config, list[str]]:
    """A config of one value for each option, and what the user should know of how."""
    return read_command(words, given_settings(Namespace(**texts)))


def _check_distinct(name: str, texts: list[str], values: list[Any]) -> None:
    """Refuses an option whose values are fewer than its texts."""
    distinct = []
    distinct += (value for value in values if value not in distinct)
    if len(distinct) < len(texts):
        raise ValueError(f"{name} has the same value twice, in {','.join(texts)}")


def split_values(name: str, text: str) -> list[str]:
    """Splits the text of an option at its commas outside brackets; a range becomes its numbers.

    Raises:
        ValueError: in one sentence, if a value is empty, or a range goes backwards or is too long.
    """
    depth, parts = 0, [""]
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    values = [value for part in parts for value in _numbers(name, part.strip())]
    if "" in values:
        raise ValueError(f"{name} has an empty value, in {text!r}")
    return values


def _numbers(name: str, part: str) -> list[str]:
    """The whole numbers of a range, both ends included; what is no range stands as it is."""
    found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part)
    if found is None:
        return [part]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise ValueError(f"{name} has a range that goes backwards, {part}; write {last}..{first}")
    if last - first >= MOST_VALUES:
        raise ValueError(f"{name} has a range of more than {MOST_VALUES} values, {part}")
    return [str(number) for number in range(first, last + 1)]
