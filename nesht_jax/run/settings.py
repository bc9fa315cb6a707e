"""From words and settings to a config: what ``nesht train`` makes of them, from Python too.

A word is a task, a YAML file, or settings that come with the package. Files and settings are merged
from left to right, the task wins over those that they name, and options win over all. A task that
is named without settings and task_options gets its tuned settings, if there are any.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nesht_jax.run.config import Config
from nesht_jax.run.machine import has_accelerator
from nesht_jax.run.names import find_config, near_config, resolve_task, tuned_config
from nesht_jax.run.yaml import Plain, config_of, merge, read


def make_config(*words: str, **settings: Any) -> Config:
    """Makes the config that ``nesht train`` makes of the same words and options.

    ``make_config("Hopper-v5", "select", distractors=10, sparsity={"every": 20})`` is what ``nesht
    train Hopper-v5 select --distractors 10 --sparsity.every 20`` trains.

    Args:
        words: task, YAML files and settings that come with the package, as ``"select"``; files and
            settings are merged from left to right, and the task wins over those that they name. A
            task named alone gets its tuned settings, if there are any.
        settings: settings over those, by the names of ``Config``; those of a section as a mapping.

    Raises:
        ValueError: in one sentence, if a word or a setting means nothing.
    """
    return read_command(words, settings)[0]


def read_command(words: Sequence[str], options: Plain) -> tuple[Config, list[str]]:
    """Makes the config of words and options, and what the user should know of how.

    Raises:
        ValueError: in one sentence, if a word or an option means nothing.
    """
    tasks, parts = [], []
    for word in words:
        path = _settings_file(word)
        if path is None:
            tasks.append(word)
        else:
            parts.append(read(path))
    for word in tasks:
        _check_task(word)
    if len(tasks) > 1:
        raise ValueError(f"one task a run, got {' and '.join(tasks)}")
    parts += [{"task": task} for task in tasks] + [options]
    settings = functools.reduce(merge, parts)
    notes = []
    task = settings.get("task")
    if isinstance(task, str):
        _check_task(task)
        found = resolve_task(task, accelerator="/" not in task and has_accelerator())
        if found.task != task:
            others = f" (also {', '.join(found.others)})" if found.others else ""
            notes.append(f"task: {found.task}{others}")
        tuned = tuned_config(found.task)
        if tuned and len(parts) - len(tasks) == 1 and "task_options" not in options:
            notes.append(f"settings: tuned for {found.task}, {tuned.parent.name}/{tuned.stem}")
            settings = merge(read(tuned), settings)
        settings["task"] = found.task
    return config_of(settings), notes


def _check_task(word: str) -> None:
    """Refuses a word that is no task, and so names nothing; before JAX is loaded."""
    try:
        resolve_task(word, accelerator=False)
    except ValueError as error:
        near = near_config(word)
        raise ValueError(f"{error}; of settings the nearest is {near}" if near else error) from None


def _settings_file(word: str) -> Path | None:
    """The YAML file that a word names; None if it names a task."""
    if (path := Path(word)).is_file():
        return path
    if (shipped := find_config(word)) is not None:
        return shipped
    if word.endswith((".yaml", ".yml")):
        raise ValueError(f"there is no file {word}")
    return None
