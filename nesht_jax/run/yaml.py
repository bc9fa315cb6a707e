"""YAML files and mappings of plain values, to configs and back.

YAML 1.2, read by ruamel's safe loader: ``1e-2`` is a number, a key given twice is an error, and no
tag makes an object. Files are UTF-8, whatever the locale.
"""

import dataclasses
import io
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from nesht_jax.envs.catalog import module_of, nearest
from nesht_jax.run.config import Config
from nesht_jax.run.fields import checked, hints, leaves
from nesht_jax.run.names import synonym

Plain = dict[str, Any]
"""A mapping as YAML gives it: strings, numbers, booleans, null, lists and mappings."""


def parse(text: str, source: str) -> Any:
    """Reads one YAML value.

    Raises:
        ValueError: naming the source, if it is no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, ValueError) as error:
        words = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{source} is not YAML: {words}{place}") from error


def read(path: Path) -> Plain:
    """Reads a YAML file that holds a mapping.

    Raises:
        ValueError: naming the file, if it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"{path} cannot be read: {reason}") from error
    value = parse(text, str(path))
    if not isinstance(value, Mapping):
        held = "nothing" if value is None else repr(value)[:60]
        raise ValueError(f"{path} must hold settings, as `task: suite/name`, but holds {held}")
    return dict(value)


def merge(base: Plain, over: Plain) -> Plain:
    """Lays one mapping of settings over another; sections are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        section = hints(Config).get(key)
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merged[key] | value if dataclasses.is_dataclass(section) and both else value
    return merged


def config_of(given: Plain) -> Config:
    """Makes a config of a mapping of settings.

    Raises:
        ValueError: in one sentence, if a setting is unknown or has a wrong value.
    """
    if given.get("task") is None:
        raise ValueError("name a task, as in `nesht train Hopper-v5`; `nesht envs` lists them")
    return _made(Config, given, "")


def _made(kind: type, given: Plain, prefix: str) -> Any:
    values = {}
    for key, value in given.items():
        section = hints(kind).get(key)
        if key not in {f.name for f in dataclasses.fields(kind)}:
            raise unknown(f"{prefix}{key}", is_section=isinstance(value, Mapping))
        if dataclasses.is_dataclass(section) and isinstance(value, Mapping):
            value = _made(section, dict(value), f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
        values[key] = checked(kind, key, value, prefix)
    return kind(**values)


def unknown(option: str, *, is_section: bool = False) -> ValueError:
    """The error for a setting that does not exist; common names are answered with ours."""
    valid, (section, _, name) = leaves(Config), option.partition(".")
    if ours := synonym(option):
        hint = f"here it is called {ours}"
    elif option in valid:
        hint = f"name its section, as in {section}={{{name!r}: ...}}"
    elif is_section:
        hint = nearest(option, {leaf.partition(".")[0] for leaf in valid if "." in leaf})
    else:
        hint = nearest(option, valid)
    return ValueError(f"unknown option {option!r}; {hint}")


def dump(config: Config) -> str:
    """The config as YAML that reads back to itself, every field in it."""
    writer, text = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    writer.allow_unicode = True
    writer.dump(_plain(dataclasses.asdict(config)), text)
    return text.getvalue()


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file whole: a kill or a power cut in the middle leaves the old one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(beside, "xb") as file:  # never through a link that somebody laid there
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_config(folder: Path, *, trust: bool = False) -> Config:
    """Reads the config of a run folder, whoever made it.

    Args:
        folder: run folder.
        trust: whether the task of the config may have a module imported that this process has not.

    Raises:
        ValueError: if the folder is missing, or is not a run, or holds a link to elsewhere, or its
            config does not read, or names such a module without trust.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ValueError(f"{path} is a link out of the run folder, which no run makes")
    given = read(folder / "config.yaml")
    try:
        config = dataclasses.replace(config_of(given), out=str(folder))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from error
    module = module_of(config.task)
    if module and module not in sys.modules and not trust:
        raise ValueError(
            f"{folder / 'config.yaml'} would import the Python module {module!r}, by its task "
            f"{config.task}, and whatever is in it would run; if you trust it, say so by --trust, "
            "or trust=True in Python"
        )
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
