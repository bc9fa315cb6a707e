"""A search for good settings by Optuna: each trial is a run, or one for each seed.

The trials are kept in ``optuna.journal`` of the folder of the runs, as lines of JSON; what is
searched there is kept beside them, and must stay the same.
"""

import json
import logging
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

JOURNAL = "optuna.journal"

LOG_FACTOR = 10
"""Ratio of the ends of a range from which it is searched on a logarithmic scale."""


class Range(NamedTuple):
    """Numbers between two ends, both included; whole ones if the ends are.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: int | float
    high: int | float

    def nearest(self, value: Any) -> int | float:
        """Gives the number of the range that is nearest to a value; its lower end if it is none."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return min(max(value, self.low), self.high) if is_number else self.low


Space = dict[str, Range | list[str]]
"""What is searched, by option: a range, or values as the command line takes them."""


def check_installed() -> None:
    """Checks that Optuna is there.

    Raises:
        ValueError: with the command that installs it.
    """
    try:
        version("optuna")
    except PackageNotFoundError:
        raise ValueError("--optuna needs optuna: pip install 'nesht-jax[optuna]'") from None


def check_folder(folder: Path, searched: dict[str, Any]) -> None:
    """Refuses a folder that holds something else than this search.

    Args:
        folder: folder of the runs, which need not exist.
        searched: what is searched and under which settings, in plain values.

    Raises:
        ValueError: in one sentence.
    """
    if (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is itself a run folder; name another folder by --out")
    if not (folder / JOURNAL).is_file():
        if any(folder.glob("[!.]*/config.yaml")):
            raise ValueError(f"{folder} holds runs of no tuning; name another folder by --out")
        return
    if _study(folder).user_attrs.get("searched") != json.loads(json.dumps(searched)):
        raise ValueError(f"{folder} holds another tuning; name another folder by --out")


def tune(
    folder: Path,
    space: Space,
    *,
    first: dict[str, Any],
    trials: int,
    searched: dict[str, Any],
    score: Callable[[int, dict[str, Any]], float | None],
) -> None:
    """Scores settings, trial after trial, until so many have been; those that are done again, as a
    run that is done is only read.

    Called again it goes on: a trial that was cut off is the first to be scored.

    Args:
        folder: folder of the runs.
        space: what is searched.
        first: settings of the first trial.
        trials: number of trials, with those that are done.
        searched: see ``check_folder``.
        score: (number of the trial from 1, settings) -> what is maximized; None if they fail.
    """
    import optuna
    from optuna.trial import TrialState

    study = _study(folder)
    if "searched" not in study.user_attrs:
        study.set_user_attr("searched", searched)
        study.enqueue_trial(first)
    distributions = {name: _distribution(chosen) for name, chosen in space.items()}
    for number in range(trials):
        known = study.get_trials(deepcopy=False)[number:]
        if known and known[0].state != TrialState.WAITING:
            trial = known[0]
        else:
            # seeded by its number, so that a search that was cut off suggests the same
            study.sampler = optuna.samplers.TPESampler(seed=number)
            trial = study.ask(fixed_distributions=distributions)
        value = score(number + 1, _tidy(trial.params))
        failed = TrialState.FAIL if value is None else None
        study.tell(number, value, state=failed, skip_if_finished=True)


def _study(folder: Path) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    logging.getLogger("optuna").setLevel(logging.ERROR)
    path = folder / JOURNAL
    _end_with_a_line(path)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(
            storage=storage, study_name="nesht", direction="maximize", load_if_exists=True
        )
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _end_with_a_line(path: Path) -> None:
    """Drops a last line that a kill cut short, which Optuna would write on in."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _distribution(chosen: Range | list[str]) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(chosen, Range):
        return CategoricalDistribution(chosen)
    log = chosen.low > 0 and chosen.high >= LOG_FACTOR * chosen.low
    if isinstance(chosen.low, int) and isinstance(chosen.high, int):
        return IntDistribution(chosen.low, chosen.high, log=log)
    return FloatDistribution(chosen.low, chosen.high, log=log)


def _tidy(params: dict[str, Any]) -> dict[str, Any]:
    """Settings with numbers of four digits, which a table can show."""
    return {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in params.items()}
