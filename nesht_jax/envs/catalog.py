"""The catalog: every task of every suite and its sizes, readable without any simulator.

A simulator takes up to seconds to import, so whatever only speaks of tasks reads ``catalog.csv``,
which ``benchmarks/catalog.py`` writes. It lists what came with the pinned versions, not what a
user registers: a name that it lacks may still exist, so it decides about sentences only.
"""

import csv
import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

SUITES = {
    "envpool": "Gymnasium's MuJoCo, classic control and Box2D tasks and Atari games in C++, the "
    "fastest on a CPU; where envpool has a wheel: Linux x86-64, macOS arm64, Windows",
    "mjx": "Gymnasium's v5 MuJoCo tasks in JAX, for accelerators",
    "brax": "the tasks of Brax, on any of its back ends",
    "gymnasium": "any environment of Gymnasium, your own included; on every platform",
    "gymnax": "classic control, bsuite and MinAtar in JAX",
    "playground": "MuJoCo Playground in JAX, for accelerators",
    "probe": "tiny tasks with known answers",
}
"""Name of each suite and what it is."""

REMEDIES = {
    "brax": "pip install 'nesht-jax[brax]'",
    "envpool": "pip install envpool",
    "gymnax": "pip install 'nesht-jax[gymnax]'",
    "playground": "pip install 'nesht-jax[playground]'",
}
"""Command that installs the package of a suite; the others come with ``pip install nesht-jax``."""

FILE = Path(__file__).with_name("catalog.csv")

_PACKAGES = {"mjx": "mujoco", "playground": "mujoco_playground"}
_NUMBERS = ("observation", "actions", "horizon")
_LISTED = 20


class Entry(NamedTuple):
    """What the catalog tells of one task.

    Attributes:
        suite: name of the suite.
        name: name of the task, without the suite's.
        observation: number of features of the true observation; None where the task could not be
            made when the catalog was written, for want of a package.
        actions: number of choices, or of components of an action; likewise None.
        kind: kind of action; empty where the task could not be made.
        image: channels, height and width of an observation that is an image; None if it is none.
        horizon: steps after which the task itself cuts an episode; None if it never does.
        terminates: False where no episode ends before its horizon.
    """

    suite: str
    name: str
    observation: int | None = None
    actions: int | None = None
    kind: Literal["discrete", "continuous", ""] = ""
    image: tuple[int, int, int] | None = None
    horizon: int | None = None
    terminates: bool = True

    @property
    def task(self) -> str:
        """Name for ``make_task``: suite and task."""
        return f"{self.suite}/{self.name}"

    @property
    def version(self) -> int | None:
        """Version of the task; None where its suite has no versions."""
        # mjx simulates Gymnasium's v5 tasks, to the digits of float32
        return 5 if self.suite == "mjx" else canonical(self.name)[1]

    @classmethod
    def named(cls, task: str) -> "Entry | None":
        """Finds the entry of exactly this ``suite/name``; None if the catalog lacks it."""
        return next((entry for entry in entries() if entry.task == task), None)

    @classmethod
    def of(cls, task: Any) -> "Entry":
        """Makes the entry of a ``types.Task``."""
        return cls(
            *task.name.split("/", 1),
            observation=task.observation_size,
            actions=task.num_actions,
            kind="discrete" if task.discrete else "continuous",
            image=task.image_shape,
            horizon=task.horizon,
            terminates=task.terminates,
        )

    @classmethod
    def of_row(cls, row: dict[str, str]) -> "Entry":
        """Reads the entry that ``row`` wrote."""
        image = tuple(int(size) for size in row["image"].split("x") if size)
        numbers = {key: int(row[key]) if row[key] else None for key in _NUMBERS}
        rest: Any = {"image": image or None, "terminates": row["terminates"] != "false"}
        return cls(**(row | numbers | rest))

    def row(self) -> dict[str, str]:
        """Writes the entry as a row of ``catalog.csv``."""
        plain = {key: "" if value is None else str(value) for key, value in self._asdict().items()}
        image = "x".join(str(size) for size in self.image or ())
        terminates = str(self.terminates).lower() if self.kind else ""
        return plain | {"image": image, "terminates": terminates}


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Reads the catalog, in the order of ``SUITES`` and of names."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(Entry.of_row(row) for row in csv.DictReader(file))


def module_of(task: str) -> str:
    """Names the module that is imported to make a task, as ``mine`` of ``gymnasium/mine:Id``.

    Empty where there is none.
    """
    return task.partition("/")[2].rpartition(":")[0]


def installed(suite: str) -> bool:
    """Tells whether the package behind a suite is installed, without importing it."""
    if suite == "probe":
        return True
    spec = importlib.util.find_spec(_PACKAGES.get(suite, suite))
    if spec is None or suite != "mjx":
        return spec is not None
    # to look for mujoco.mjx by its dotted name would import mujoco
    return any(Path(root, "mjx").is_dir() for root in spec.submodule_search_locations or ())


def canonical(name: str) -> tuple[str, int | None]:
    """Splits a task's name into what is left of it when spelling is set aside, and its version.

    ``HalfCheetah-v5`` and ``half_cheetah`` are both ``halfcheetah``, of version 5 and None.
    """
    match = re.fullmatch(r"(.*?)(?:[-_]?v(\d+))?", name.lower(), re.DOTALL)
    assert match is not None  # every string matches
    return _squeezed(match[1]), int(match[2]) if match[2] else None


def search(words: Iterable[str]) -> list[Entry]:
    """Finds the tasks whose ``suite/name`` contains every word, in any case, ``_`` and ``-``
    aside."""
    wanted = [_squeezed(word.lower()) for word in words]
    return [e for e in entries() if all(word in _squeezed(e.task.lower()) for word in wanted)]


def matching(name: str) -> list[Entry]:
    """Finds the tasks of this name in any suite, spelling aside; of its version if it has one."""
    stem, version = canonical(name)
    return [
        entry
        for entry in entries()
        if canonical(entry.name)[0] == stem and version in (None, entry.version)
    ]


def closest(given: str, valid: Iterable[str], *, cutoff: float) -> list[str]:
    """Lists up to three valid names that are spelled nearly as the given one, the nearest first."""
    by_lower = {name.lower(): name for name in sorted(valid)}
    close = difflib.get_close_matches(given.lower(), by_lower, n=3, cutoff=cutoff)
    return [by_lower[name] for name in close]


def nearest(given: str, valid: Iterable[str]) -> str:
    """Says in a clause which valid names are nearest to the given one, or which are valid."""
    names = sorted(valid)
    if close := closest(given, names, cutoff=0.5):
        return "did you mean " + ", ".join(close)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "valid are " + ", ".join(names[:_LISTED]) + more


def unknown_task(given: str) -> str:
    """Says that a task is unknown, and where the name exists, or which names are nearest."""
    suite, slash, name = given.partition("/")
    if suite in SUITES:
        return f"unknown task {given!r}; {_nearest_in(suite, name)}"
    elsewhere = _elsewhere(name if slash else given)
    if slash:
        return f"unknown suite {suite!r} in task {given!r}; {elsewhere or nearest(suite, SUITES)}"
    if elsewhere:
        return f"task {given!r} needs the name of its suite: {elsewhere}"
    return f"unknown task {given!r}; {_nearest_anywhere(given)}"


def is_typo(task: str) -> bool:
    """Tells whether a ``suite/name`` that the catalog lacks is one that it has, misspelled.

    One that differs in its version alone is none: a newer package may have it.
    """
    suite, _, name = task.partition("/")
    stems = _stems(suite)
    stem, version = canonical(name)
    if stem in stems:
        return any(version in (None, entry.version) for entry in stems[stem])
    return bool(difflib.get_close_matches(stem, stems, n=1, cutoff=0.8))


def _nearest_in(suite: str, name: str) -> str:
    """A clause for a name that its suite lacks: the same name, spelling aside, there or in
    another suite, before names that only resemble it."""
    stems = _stems(suite)
    near = ", ".join(entry.task for entry in _resembling(name, stems))
    elsewhere = _elsewhere(name)
    if elsewhere and canonical(name)[0] not in stems:
        return elsewhere
    return f"did you mean {near}" if near else f"`nesht envs {suite}` lists its tasks"


def _nearest_anywhere(name: str) -> str:
    near = ", ".join(dict.fromkeys(entry.name for entry in _resembling(name, _stems())))
    return f"did you mean {near}" if near else "`nesht envs` lists all tasks"


def _elsewhere(name: str) -> str:
    tasks = ", ".join(entry.task for entry in matching(name))
    return tasks and f"{name} is in {tasks}"


def _resembling(name: str, stems: dict[str, list[Entry]]) -> list[Entry]:
    """The tasks that a misspelled name may mean: other versions of it, newest first; else one
    task for each of the nearest names, of its version, or the newest."""
    stem, version = canonical(name)
    if stem in stems:
        return sorted(stems[stem], key=lambda entry: canonical(entry.name)[1] or 0, reverse=True)
    nearest_stems = (
        difflib.get_close_matches(stem, stems, n=3, cutoff=0.85)
        or [other for other in stems if len(stem) > 2 and stem in other][:3]
        or difflib.get_close_matches(stem, stems, n=3, cutoff=0.6)
    )

    def fitting(entry: Entry) -> tuple[bool, int]:
        return version is not None and entry.version == version, entry.version or 0

    return [max(stems[near], key=fitting) for near in nearest_stems]


def _stems(suite: str | None = None) -> dict[str, list[Entry]]:
    """The tasks of one suite, or of all, by their names, spelling and version aside."""
    found: dict[str, list[Entry]] = {}
    for entry in entries():
        if suite in (None, entry.suite):
            found.setdefault(canonical(entry.name)[0], []).append(entry)
    return found


def _squeezed(text: str) -> str:
    return text.replace("_", "").replace("-", "")
