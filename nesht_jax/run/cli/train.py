"""Train a policy.

  nesht train CartPole-v1                      a task by name, in the best suite on this machine
  nesht train quickstart                       settings that come with the package
  nesht train mine.yaml paper --seed 3         YAML files and presets, merged from left to right
  nesht train --resume RUN [--steps N]         goes on with a run

Options win over files. A task that is named without settings and task_options gets its tuned
settings, if there are any.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.machine import has_accelerator, keep_compilations
from nesht_jax.run.cli.options import add_settings, given_settings, refuse_unknown
from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.names import find_config, resolve_task, tuned_config
from nesht_jax.run.yaml import Plain, make_config, merge, read, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht train`` takes."""
    parser.usage = "nesht train [TASK | SETTINGS ...] [options]\n       nesht train --resume RUN"
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, by its own config; only generations, steps and "
        "track may change",
    )
    add_settings(parser)


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and makes the run; nothing is trained."""
    given, leftover = parser.parse_known_intermixed_args(argv)
    refuse_unknown(leftover)
    if given.resume is not None:
        config, notes = _continued(Path(given.resume), given), []
    else:
        config, notes = read_command(given.settings, given_settings(given))
    keep_compilations()
    from rich.console import Console

    from nesht_jax.run.train import start

    run = start(config, resume=given.resume is not None)
    console = Console()

    def work() -> int:
        for note in notes:
            console.print(note, soft_wrap=True, markup=False, highlight=False)
        result = run.go(console)
        from nesht_jax.run.cli.conclusion import conclude

        conclude(console, config, result)
        return 128 + result.interrupted if result.interrupted else 0

    return work


def read_command(words: list[str], options: Plain) -> tuple[Config, list[str]]:
    """Makes the config of words and options, and what the user should know of how.

    Raises:
        ValueError: in one sentence, if a word or an option means nothing.
    """
    tasks, parts = [], []
    for word in words:
        path = _settings_file(word)
        if path is None:
            tasks.append(word)
            parts.append({"task": word})
        else:
            parts.append(read(path))
    if len(tasks) > 1:
        raise ValueError(f"one task a run, got {' and '.join(tasks)}")
    parts.append(options)
    settings = functools.reduce(merge, parts)
    notes = []
    task = settings.get("task")
    if isinstance(task, str):
        resolve_task(task, accelerator=False)  # a typo is answered before JAX is loaded
        found = resolve_task(task, accelerator="/" not in task and has_accelerator())
        if found.task != task:
            others = f" (also {', '.join(found.others)})" if found.others else ""
            notes.append(f"task: {found.task}{others}")
        tuned = tuned_config(found.task)
        if tuned and len(parts) - len(tasks) == 1 and "task_options" not in options:
            notes.append(f"settings: tuned for {found.task}, {tuned.parent.name}/{tuned.stem}")
            settings = merge(read(tuned), settings)
        settings["task"] = found.task
    return make_config(settings), notes


def _settings_file(word: str) -> Path | None:
    """The YAML file that a word names; None if it names a task."""
    if (path := Path(word)).is_file():
        return path
    if (shipped := find_config(word)) is not None:
        return shipped
    if word.endswith((".yaml", ".yml")):
        raise ValueError(f"there is no file {word}")
    return None


def _continued(folder: Path, given: argparse.Namespace) -> Config:
    """The config of a run, with the changes to it that are asked for."""
    saved = read_config(folder)
    if given.settings:
        raise ValueError(f"a resumed run keeps its config; got {', '.join(given.settings)}")
    asked = make_config(merge(dataclasses.asdict(saved), given_settings(given)))
    changed = [name for name in leaves(Config) if _value(saved, name) != _value(asked, name)]
    if not {*changed} <= {*CHANGEABLE}:
        names, but = ", ".join(changed), ", ".join(CHANGEABLE)
        raise ValueError(f"a resumed run keeps its config but for {but}; got {names}")
    return asked


def _value(config: Config, name: str) -> object:
    return functools.reduce(getattr, name.split("."), config)
