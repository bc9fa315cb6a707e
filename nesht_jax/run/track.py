"""Trackers: programs of others that show the metrics of a run while they come.

Each takes numbers by tag, against the useful environment steps so far, and is imported only where
it is asked for. TensorBoard and wandb write into the run folder; trackio into its own, TRACKIO_DIR.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from nesht_jax.report.rows import Row
from nesht_jax.run.config import Config
from nesht_jax.run.provenance import read_sittings

PROJECT = "nesht_jax"

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
"""Package of each tracker."""

GROUPS = {
    "fitness_mean": "train",
    "fitness_std": "train",
    "fitness_max": "train",
    "failed": "train",
    "skipped": "train",
    "dropped_moments": "train",
    "sigma": "train",
    "gradient_norm": "weights",
    "gradient_snr": "weights",
    "params_norm": "weights",
    "sparsity": "weights",
    "center_fitness": "search",
    "distinct_architectures": "search",
    "edges": "search",
    "generation": "time",
    "seconds": "time",
    "steps": "time",
    "simulated_steps": "time",
    "frames": "time",
}
"""Group of each field of a row; what its evaluation holds is of the group eval."""


class Opened(NamedTuple):
    """The functions of a tracker that is ready.

    Attributes:
        log: what takes numbers by tag, and the useful environment steps so far.
        close: what writes or sends the rest.
    """

    log: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


class Tracker:
    """Shows the rows of a run by the tracker that its config names.

    Args:
        config: config of the run, whose ``track`` is not None.
        rows: rows of the run, as they were logged before this sitting.
        generation: generation that it goes on from; later rows will come again.
    """

    def __init__(self, config: Config, rows: list[Row], *, generation: int) -> None:
        kept = [row for row in rows if row.generation <= generation]
        self._steps = sum(row.steps for row in kept)
        begin = self._steps + 1 if kept else 0
        shown = sum(row.steps for row in rows) if rows else -1
        open_ = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
        self._log, self.close = open_[config.track or ""](config, begin=begin, shown=shown)

    def append(self, row: Row) -> None:
        """Shows one more row."""
        self._steps += row.steps
        self._log(scalars(row), self._steps)


def check_installed(track: str) -> None:
    """Checks that the package of a tracker is there.

    Raises:
        ValueError: with the command that installs it.
    """
    try:
        version(PACKAGES[track])  # to import it could find a folder wandb/ of the user's
    except PackageNotFoundError:
        raise ValueError(
            f"track {track} needs {PACKAGES[track]}: pip install 'nesht-jax[{track}]'"
        ) from None


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row by tag, as ``"eval/mean"``; what is None is left out."""
    told = {f"{group}/{name}": getattr(row, name) for name, group in GROUPS.items()}
    told |= {f"agent/{name}": value for name, value in (row.agent or {}).items()}
    if row.seconds:
        told["time/steps_per_second"] = row.steps / row.seconds
    if row.evaluation is not None:
        evaluation = row.evaluation._asdict()
        for i, norm in enumerate(evaluation.pop("segment_norms")):
            evaluation[f"segment_norms/{i}"] = norm
        told |= {f"eval/{name}": value for name, value in evaluation.items()}
    return {tag: float(value) for tag, value in told.items() if value is not None}


def _tensorboard(config: Config, *, begin: int, shown: int) -> Opened:
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(config.folder / "tensorboard"), purge_step=begin)

    def log(numbers: dict[str, float], steps: int) -> None:
        for tag, number in numbers.items():
            board.add_scalar(tag, number, steps)

    return Opened(log, board.close)


def _wandb(config: Config, *, begin: int, shown: int) -> Opened:
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        run = wandb.init(
            project=PROJECT,
            name=config.folder.name,
            id=_identity(config),
            dir=config.folder,
            config=dataclasses.asdict(config),
            resume="allow",
            reinit="create_new",  # a run of the user's own goes on beside it
        )
    except wandb.Error as error:  # as without an account
        raise OSError(
            f"wandb does not start: {error} The run can go on without: --track null"
        ) from error
    return _unrepeated(run, shown)


def _trackio(config: Config, *, begin: int, shown: int) -> Opened:
    import trackio  # pyright: ignore[reportMissingImports]

    run = trackio.init(
        project=PROJECT,
        name=f"{config.folder.name}-{_identity(config)}",
        config=dataclasses.asdict(config),
        resume="allow",
    )
    return _unrepeated(run, shown)


def _unrepeated(run: Any, shown: int) -> Opened:
    """Leaves out what a sitting that was killed has shown already: it is the same, bit for bit."""

    def log(numbers: dict[str, float], steps: int) -> None:
        if steps > shown:
            run.log(numbers, step=steps)

    return Opened(log, run.finish)


def _identity(config: Config) -> str:
    """A word that is the same at every sitting of a run, and at no other run."""
    begin = read_sittings(config.folder)[0]["begin"]
    return hashlib.sha256(f"{config.digest} {begin}".encode()).hexdigest()[:8]
