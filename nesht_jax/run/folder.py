"""The folder of a run: made whole or not at all, and where a run in it goes on."""

import os
import re
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

from nesht_jax.report.rows import read_rows
from nesht_jax.run import processes
from nesht_jax.run.agent import RunState
from nesht_jax.run.checkpoint import Checkpoints, Saved, packed, unpacked
from nesht_jax.run.config import Config
from nesht_jax.run.yaml import dump, read_config, write


def found(folder: Path, *, resume: bool) -> bytes:
    """Looks whether a run can be in this folder; of one that is there, the number of its shares.

    Raises:
        ValueError: if it cannot, or if there should be one and is none, or the other way round.
    """
    if re.match(r"\w\w+:/", folder.as_posix()):
        raise ValueError(f"run folder {folder} is an address; a run is kept on local disks")
    if unreadable := {"[", "\\"} & {*folder.absolute().as_posix()}:
        # Orbax 0.12 takes the path for a pattern: it writes checkpoints that it cannot read
        raise ValueError(
            f"run folder {folder} has {' and '.join(sorted(unreadable))} in its path, from which "
            "no checkpoint can be read; choose another by --out"
        )
    if resume and not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(exists_already(folder))
    # nothing is made of what is there: the caller has read it, and trusts it
    return str((resume and read_config(folder, trust=True).shares) or 0).encode()


def exists_already(folder: Path) -> str:
    """The sentence for a run folder that is there."""
    return (
        f"run folder {folder} exists; go on with it by --resume {folder}, or choose another by "
        "--out"
    )


def make_folder(folder: Path, config: Config) -> None:
    """Makes a run folder with its config in it, whole or not at all, and only if there is none.

    Raises:
        ValueError: if it is there, or cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:50]}."))
        made.chmod(0o755)
        write(made / "config.yaml", dump(replace(config, out=None)))
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be made: {error.strerror}") from error
    try:
        os.rename(made, folder)  # fails where a folder with something in it is
    except OSError as error:
        (made / "config.yaml").unlink()
        made.rmdir()
        raise ValueError(exists_already(folder)) from error


def restored(config: Config, first: RunState) -> tuple[Saved, bool]:
    """What a run goes on from, on every process; and whether its row 0 is written."""

    def begun() -> bool:
        log = config.folder / "metrics.jsonl"
        return log.exists() and bool(read_rows(log))

    if processes.number() == 1:
        return _newest(config, first), begun()
    told = processes.from_writer(lambda: bytes([begun()]) + packed(_newest(config, first)))
    return unpacked(told[1:], first), bool(told[0])


def _newest(config: Config, first: RunState) -> Saved:
    """The newest checkpoint of a run; its first state, if the run died before it saved any.

    Warns of rows that its log has lost.
    """
    log = config.folder / "metrics.jsonl"
    rows = read_rows(log) if log.exists() else []
    checkpoints = Checkpoints(config.folder / "checkpoints", config, create=False)
    try:
        if checkpoints.latest() is None and not rows:
            return Saved(first, 0)
        saved = checkpoints.restore(first)
    finally:
        checkpoints.close()
    expected = int(saved.state.generation)
    lost = sorted({*range(1, expected + 1)} - {row.generation for row in rows})
    if lost:
        warnings.warn(
            f"{log} has lost the rows of {len(lost)} generations, the first of them {lost[0]}; the "
            "run goes on from its checkpoint, and they stay lost",
            stacklevel=2,
        )
    return saved


def check_limits(folder: Path, config: Config) -> None:
    """Refuses a config that would have ended the run in this folder earlier.

    Raises:
        ValueError: naming how far it has come.
    """
    log = folder / "metrics.jsonl"
    rows = read_rows(log) if log.exists() else []
    done = rows[-1].generation if rows else 0
    if done > config.last_generation:
        raise ValueError(f"{folder} has {done} generations, more than {config.last_generation}")
    if config.steps is not None and sum(row.steps for row in rows[:-1]) >= config.steps:
        raise ValueError(f"{folder} has more than {config.steps} steps")
