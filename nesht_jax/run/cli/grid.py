"""Options of which each may have several values: every combination of them, or what a search is to
choose from."""

import re
from argparse import Namespace
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple

from nesht_jax.report.sweeps import as_text
from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.config import Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.settings import read_command
from nesht_jax.run.tuning import Range, Space
from nesht_jax.run.yaml import parse

MOST_VALUES = 10_000
"""Numbers of a range: more are a typing error that would fill the memory."""


NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
"""What an end of a range is written as."""


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


class Tuning(NamedTuple):
    """What a search is to choose from.

    Attributes:
        words: words of the command.
        options: options that stay as they are, as texts.
        space: what is searched, by option.
        first: settings of the first trial: those without the search or, in ranges, the nearest.
        seeds: seeds of each trial.
        notes: what the user should know of how the configs were made.
    """

    words: list[str]
    options: dict[str, str]
    space: Space
    first: dict[str, Any]
    seeds: list[int]
    notes: list[str]

    def config(self, settings: dict[str, Any]) -> Config:
        """Makes the config of a trial, as ``nesht train`` makes it.

        Raises:
            ValueError: in one sentence, if the settings exclude each other.
        """
        texts = {name: as_text(value) for name, value in settings.items()}
        return _made(self.words, self.options | texts)[0]

    def searched(self) -> dict[str, Any]:
        """Tells what makes this search another than any other, in plain values."""
        return {
            "words": self.words,
            "options": self.options,
            "space": self.space,
            "seeds": self.seeds,
        }


def read_tuning(given: Namespace) -> Tuning:
    """Reads what a search is to choose from: of options with several values one of them, of an
    option that is a range any number of it.

    Args:
        given: see ``read_grid``.

    Raises:
        ValueError: in one sentence, if a word, an option or a value means nothing, or nothing is
            searched.
    """
    texts = {n: text for n, text in vars(given).items() if n in leaves(Config) and n != "out"}
    seed_texts = split_values("seed", texts.pop("seed")) if "seed" in texts else []
    space: Space = {}
    for name, text in texts.items():
        parts = _parts(name, text)
        if len(parts) > 1:
            space[name] = parts
        elif (found := _range(name, parts[0])) is not None:
            space[name] = found
    for name in ("generations", "steps"):
        if name in space:
            raise ValueError(f"{name} takes one value in a search, got {texts[name]}")
    if not space:
        raise ValueError(
            "--optuna searches options that have a range or several values, as in "
            "--optimizer.learning_rate 0.001..0.1"
        )
    options = {name: text for name, text in texts.items() if name not in space}
    base, notes = _made(given.settings, options)
    first = {name: _nearest(chosen, attrgetter(name)(base)) for name, chosen in space.items()}
    made = Tuning(given.settings, options, space, first, [base.seed], notes)
    for name, chosen in space.items():
        found = [attrgetter(name)(made.config(first | {name: value})) for value in chosen]
        _check_distinct(name, _parts(name, texts[name]), found)
    seeds = [_made(given.settings, options | {"seed": text})[0].seed for text in seed_texts]
    _check_distinct("seed", seed_texts, seeds)
    return made._replace(seeds=seeds or made.seeds)


def _nearest(chosen: Range | list[str], value: Any) -> Any:
    """Of what is searched, that which is nearest to a value."""
    if isinstance(chosen, Range):
        return chosen.nearest(value)
    given = parse(as_text(value), "the option")
    return next((text for text in chosen if parse(text, "the option") == given), chosen[0])


def _range(name: str, part: str) -> Range | None:
    """The range that a text means; None if it is none."""
    found = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", part)
    if found is None:
        return None
    low, high = (int(x) if re.fullmatch(r"-?\d+", x) else float(x) for x in found.groups())
    if high <= low:
        raise ValueError(f"{name} has a range that goes backwards, {part}")
    return Range(low, high)


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
    return [value for part in _parts(name, text) for value in _numbers(name, part)]


def _parts(name: str, text: str) -> list[str]:
    """The parts of a text between commas outside brackets."""
    depth, parts = 0, [""]
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    parts = [part.strip() for part in parts]
    if "" in parts:
        raise ValueError(f"{name} has an empty value, in {text!r}")
    return parts


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
