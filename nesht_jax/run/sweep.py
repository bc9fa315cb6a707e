"""Several runs, each in a folder of its own; what is there already is gone on with."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from signal import Signals

from rich.console import Console

from nesht_jax.report.rows import read_rows
from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.train import Result, prepared, train
from nesht_jax.run.yaml import read_config


class Interrupted(SystemExit):
    """A signal ended a run; the same call goes on with it.

    Uncaught it ends the process by the code of the signal, 128 + its number.

    Attributes:
        signal: signal that ended the run.
    """

    def __init__(self, signal: Signals) -> None:
        super().__init__(128 + signal)
        self.signal = signal


def sweep(
    bases: Iterable[Config],
    *,
    seeds: Iterable[int],
    folder: Path,
    console: Console | None = None,
) -> Iterator[tuple[Config, Result]]:
    """Trains every config on every seed, and gives each run as it ends.

    Called again it trains what is missing and gives all.

    Args:
        bases: configs; see ``planned``, as for seeds and folder.
        seeds: seeds of each.
        folder: folder of the run folders.
        console: console for progress; standard output if None.

    Raises:
        Interrupted, ValueError: see ``trained``.
    """
    for config in planned(bases, seeds=seeds, folder=folder):
        yield config, trained(config, console=console)


def planned(bases: Iterable[Config], *, seeds: Iterable[int], folder: Path) -> list[Config]:
    """Lists the runs of a sweep in the order of their training, each with its folder.

    All configs are trained on one seed before any is on the next, so that a sweep that is cut off
    has something of everything.

    Args:
        bases: configs, which must differ in more than their generations; ``seed`` and ``out`` of
            them do not count.
        seeds: seeds of each.
        folder: folder of the run folders, each named after its config.
    """
    bases = list(bases)
    runs = [replace(base, seed=seed, out=None) for seed in seeds for base in bases]
    return [replace(run, out=str(folder / run.folder.name)) for run in runs]


def check(configs: list[Config], folder: Path) -> None:
    """Refuses a sweep if a run of it cannot be trained, or its folder has others; writes nothing.

    Args:
        configs: runs of the sweep, as ``planned`` lists them.
        folder: folder of the run folders.

    Raises:
        ValueError: in one sentence.
    """
    if (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is itself a run folder; name another folder by --out")
    own = {config.folder.name for config in configs}
    runs = {path.parent.name for path in folder.glob("[!.]*/config.yaml")}
    if others := sorted(runs - own):
        raise ValueError(
            f"{folder} holds runs of other settings, as {others[0]}; name another folder by --out"
        )
    for config in configs:
        prepared(config, resume=_has_begun(config)).close()


def trained(config: Config, *, console: Console | None = None) -> Result:
    """Gives a run at its end: trains it, goes on with what is in its folder, or reads it.

    Raises:
        Interrupted: if a signal ended the run early.
        ValueError: in one sentence, if ``train`` refuses the config, or its folder holds a run of
            another config or of more generations.
    """
    result = train(config, resume=_has_begun(config), console=console)
    if result.interrupted:
        raise Interrupted(result.interrupted)
    return result


def _has_begun(config: Config) -> bool:
    """Whether a run is in its folder; what is not its beginning is refused."""
    folder = config.folder
    if not (folder / "config.yaml").is_file():
        return False
    # nothing is made of what is there: its task must be that of the sweep
    _check_same(read_config(folder, trust=True), config)
    log = folder / "metrics.jsonl"
    rows = read_rows(log) if log.exists() else []
    done = rows[-1].generation if rows else 0
    if done > config.last_generation:
        raise ValueError(f"{folder} has {done} generations, more than {config.last_generation}")
    if config.steps is not None and sum(row.steps for row in rows[:-1]) >= config.steps:
        raise ValueError(f"{folder} has more than {config.steps} steps")
    return True


def _check_same(saved: Config, asked: Config) -> None:
    if saved.digest == asked.digest:
        return
    changed = [n for n in leaves(Config) if attrgetter(n)(saved) != attrgetter(n)(asked)]
    names = ", ".join(name for name in changed if name not in (*CHANGEABLE, "out"))
    raise ValueError(f"run folder {asked.folder} holds a run of other settings: {names}")
