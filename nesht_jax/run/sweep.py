"""Several runs, each in a folder of its own; what is there already is gone on with."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.train import Result, train
from nesht_jax.run.yaml import read_config


class Interrupted(SystemExit):
    """A signal ended a run; the same call goes on with it.

    Uncaught it ends the process by the code of the signal, 128 + its number.
    """


def sweep(
    bases: Iterable[Config],
    *,
    seeds: Iterable[int],
    folder: Path,
    console: Console | None = None,
) -> Iterator[tuple[Config, Result]]:
    """Trains every config on every seed, and gives each run as it ends.

    All configs are trained on one seed before any is on the next, so that a sweep that is cut off
    has something of everything. Called again it trains what is missing and gives all.

    Args:
        bases: configs, which must differ in more than their generations; ``seed`` and ``out`` of
            them do not count.
        seeds: seeds of each.
        folder: folder of the run folders, each named after its config.
        console: console for progress; standard output if None.

    Raises:
        Interrupted, ValueError: see ``trained``.
    """
    bases = list(bases)
    for seed in seeds:
        for base in bases:
            config = replace(base, seed=seed, out=None)
            config = replace(config, out=str(folder / config.folder.name))
            yield config, trained(config, console=console)


def trained(config: Config, *, console: Console | None = None) -> Result:
    """Gives a run at its end: trains it, goes on with what is in its folder, or reads it.

    Raises:
        Interrupted: if a signal ended the run early.
        ValueError: in one sentence, if ``train`` refuses the config, or its folder holds a run of
            another config or of more generations.
    """
    is_run = (config.folder / "config.yaml").is_file()
    if is_run:
        _check_same(read_config(config.folder), config)
    result = train(config, resume=is_run, console=console)
    if result.interrupted:
        raise Interrupted(128 + result.interrupted)
    if (done := int(result.state.generation)) > config.last_generation:
        raise ValueError(
            f"{config.folder} has {done} generations, more than {config.last_generation}"
        )
    last = result.rows[-1].steps
    if config.steps is not None and sum(row.steps for row in result.rows) - last >= config.steps:
        raise ValueError(f"{config.folder} has more than {config.steps} steps")
    return result


def _check_same(saved: Config, asked: Config) -> None:
    if saved.digest == asked.digest:
        return
    changed = [n for n in leaves(Config) if attrgetter(n)(saved) != attrgetter(n)(asked)]
    names = ", ".join(name for name in changed if name not in (*CHANGEABLE, "out"))
    raise ValueError(f"run folder {asked.folder} holds a run of other settings: {names}")
