"""Train a policy.

  nesht train CartPole-v1                      a task by name, in the best suite on this machine
  nesht train quickstart                       settings that come with the package
  nesht train mine.yaml paper --seed 3         YAML files and presets, merged from left to right
  nesht train --resume RUN [--steps N]         goes on with a run
  nesht train quickstart --resume auto         begins a run, or goes on with it if it has begun

Options win over files, and so does a task among the words. One that stands without settings and
task_options gets its tuned settings, if there are any.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from nesht_jax.run.cli.options import add_settings, add_trust, given_settings, refuse_unknown
from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import differences
from nesht_jax.run.launcher import LostProcessError, place_of
from nesht_jax.run.machine import keep_compilations
from nesht_jax.run.settings import read_command
from nesht_jax.run.yaml import Plain, config_of, dump, merge, parse, read_config

AUTO = "auto"
"""What ``--resume`` takes instead of a folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht train`` takes."""
    parser.usage = (
        "nesht train [TASK | SETTINGS ...] [options] [--resume auto]\n"
        "       nesht train --resume RUN"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, by its own config; only generations, steps and "
        "track may change. auto: with the run that the other words name, or begin it, as a "
        "scheduler wants that starts the same command again",
    )
    add_trust(parser)
    add_settings(parser)


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Reads the command and makes the run; nothing is trained."""
    given, leftover = parser.parse_known_intermixed_args(argv)
    refuse_unknown(leftover)
    if (place := place_of(os.environ)) is not None:
        from nesht_jax.run.processes import start as join

        join(place)
    auto = given.resume == AUTO
    if given.resume is not None and not auto:
        config, notes = _asked(Path(given.resume), given, alone=place is None), []
    elif given.trust:
        raise ValueError("--trust goes with --resume RUN: a task that you name is trusted")
    else:
        options = given_settings(given)
        config, notes = read_command(given.settings, options)
        _refuse_idle(options, config)
    keep_compilations()
    from rich.console import Console

    from nesht_jax.run.cli.conclusion import how_to_go_on, say
    from nesht_jax.run.cli.opening import opening
    from nesht_jax.run.processes import from_writer, is_writer, naming_the_lost
    from nesht_jax.run.sweep import has_begun
    from nesht_jax.run.train import start

    resume = given.resume is not None
    if auto:
        resume = from_writer(lambda: bytes([has_begun(config)])) == bytes([True])
    run = start(config, resume=resume)
    console = Console(quiet=not is_writer())
    notes = [*notes, *opening(run)]

    def work() -> int:
        for note in notes:
            say(console, note)
        try:
            with naming_the_lost():
                result = run.go(console)
        except LostProcessError as error:
            raise LostProcessError(f"{error}; go on with: {how_to_go_on(run.config)}") from error
        from nesht_jax.run.cli.conclusion import conclude

        conclude(console, run.config, result)
        return 128 + result.interrupted if result.interrupted else 0

    return work


def _refuse_idle(options: Plain, config: Config) -> None:
    """Refuses options of a part that the run does without; in a sweep others may have it."""
    agent = config.agent.name
    idle = {
        "search": "without search.space" if not config.search.space else "",
        "agent": "without agent.name" if agent is None else "",
        "algorithm": f"with agent.name {agent}" if agent is not None else "",
    }
    for section, why in idle.items():
        given = [f"{section}.{name}" for name in options.get(section, ())]
        useless = [name for name in given if name not in ("search.space", "agent.name")]
        if why and useless:
            raise ValueError(f"{useless[0]} does nothing {why}")


def _asked(folder: Path, given: argparse.Namespace, *, alone: bool) -> Config:
    """``_continued``; of several processes the writer alone reads the folder."""
    if alone:
        return _continued(folder, given)
    from nesht_jax.run.processes import from_writer

    told = from_writer(lambda: dump(_continued(folder, given)).encode())
    return config_of(parse(told.decode(), f"the config of {folder}"))


def _continued(folder: Path, given: argparse.Namespace) -> Config:
    """The config of a run, with the changes to it that are asked for."""
    from nesht_jax.run.folder import check_limits

    # who names the task trusts its module; another than the run's is refused below
    saved = read_config(folder, trust=given.trust or "task" in given)
    if given.settings:
        raise ValueError(f"a resumed run keeps its config; got {', '.join(given.settings)}")
    settings, kept = given_settings(given), dataclasses.asdict(saved)
    decays = saved.agent.learning_rate_decay
    if {"generations", "steps"} & {*settings} and not decays:
        kept |= {"generations": None, "steps": None}  # a new limit takes the place of the old
    asked = config_of(merge(kept, settings))
    changed = differences(saved, asked)
    if "steps" in changed and decays:
        raise ValueError("steps cannot change where agent.learning_rate_decay ends with them")
    if not {*changed} <= {*CHANGEABLE}:
        names, but = ", ".join(changed), ", ".join(CHANGEABLE)
        raise ValueError(f"a resumed run keeps its config but for {but}; got {names}")
    check_limits(folder, asked)
    return asked
