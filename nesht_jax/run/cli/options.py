"""Words and options of the command line that make a config, with their help, and back."""

import argparse
import inspect
import os
import types
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser

from nesht_jax.envs.catalog import nearest
from nesht_jax.run.config import Config
from nesht_jax.run.fields import hints, leaves
from nesht_jax.run.names import shipped_configs
from nesht_jax.run.yaml import Plain, merge, parse, unknown


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds what makes a config: words, and an option for every field, in groups by section."""
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="TASK | SETTINGS",
        help="task, YAML file, or settings that come with the package: "
        + ", ".join(shipped_configs()),
    )
    groups: dict[type, Any] = {}
    for name, (section, field) in leaves(Config).items():
        if section not in groups:
            about = _docs(section).short_description
            title = "run" if section is Config else section.PREFIX.rstrip(".")
            groups[section] = parser.add_argument_group(title, about)
        kind = hints(section)[field]
        default = getattr(section, field, None)
        shown = "" if default in (None, ()) else f" [{_shown(default)}]"
        bare = {"nargs": "?", "const": "true"} if kind is bool else {}
        groups[section].add_argument(
            f"--{name}",
            metavar=_metavar(kind),
            default=argparse.SUPPRESS,
            help=(_help(section)[field] + shown).replace("%", "%%"),
            **bare,
        )


def given_settings(given: argparse.Namespace) -> Plain:
    """The options that were given, as a mapping of settings; their values are read as YAML."""
    settings: Plain = {}
    for name, text in vars(given).items():
        if name not in leaves(Config):
            continue
        section, field = leaves(Config)[name]
        value = text if _is_text(hints(section)[field], text) else parse(text, f"--{name}")
        *path, last = name.split(".")
        settings = merge(settings, {path[0]: {last: value}} if path else {last: value})
    return settings


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says which policy of a run is meant."""
    parser.add_argument(
        "--generation",
        type=_which,
        metavar="N",
        help="policy of the evaluation after generation N, or of the best one: `--generation best` "
        "[the newest checkpoint]",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the option that lets the config of a run have a module imported."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the run import the Python module that its task names, as gymnasium/my_module:"
        "My-v0 does: whatever is in it runs",
    )


def check_out(path: Path) -> None:
    """Refuses a file that cannot be written, before anything is done for it.

    Raises:
        ValueError: in one sentence.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: it is not allowed")


def _which(text: str) -> int | str:
    if text == "best" or text.isdecimal():
        return text if text == "best" else int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number, or best, got {text!r}")


def refuse_unknown(leftover: list[str], parser: argparse.ArgumentParser | None = None) -> None:
    """Raises for what a parser did not know.

    Args:
        leftover: words that it left over.
        parser: parser of a command that takes no settings; None: of one that takes them all.

    Raises:
        ValueError: naming the first such option, and ours of that meaning or the nearest.
    """
    if not leftover:
        return
    option = leftover[0].lstrip("-").partition("=")[0]
    if parser is None:
        raise unknown(option)
    own = {flag.lstrip("-") for action in parser._actions for flag in action.option_strings}
    raise ValueError(f"unknown option {option!r}; {nearest(option, own - {'h'})}")


def _is_text(kind: Any, text: str) -> bool:
    """Whether the option is text and stays as it was typed; null is no text."""
    optional = get_origin(kind) in (Union, types.UnionType) and str in get_args(kind)
    return kind is str or get_origin(kind) is Literal or (optional and text != "null")


@cache
def _docs(section: type) -> docstring_parser.Docstring:
    return docstring_parser.parse(inspect.getdoc(section) or "")


@cache
def _help(section: type) -> dict[str, str]:
    return {p.arg_name: " ".join((p.description or "").split()) for p in _docs(section).params}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) in (Union, types.UnionType):
        return _metavar(next(a for a in get_args(kind) if a is not type(None)))
    if get_origin(kind) is tuple:
        return "[A, B]"
    words = {int: "N", float: "X", str: "NAME", bool: "true|false"}
    return words.get(kind, "{NAME: VALUE}")
