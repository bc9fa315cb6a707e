"""Several runs, each in a folder of its own; what is there already is gone on with."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from signal import Signals

import jax
from rich.console import Console

from nesht_jax.envs.episode_queue import STORED_ENTRIES, default_num_envs, most_envs
from nesht_jax.envs.tasks import suite_of
from nesht_jax.run.ambient import pinned
from nesht_jax.run.build import build_policy, build_task, traceable
from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import differences
from nesht_jax.run.folder import check_limits
from nesht_jax.run.result import Result
from nesht_jax.run.train import go_together, prepared, start
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
    """Trains every config on every seed, and gives the runs as they end; agents that diverge are
    told of and left out.

    Called again it trains what is missing and gives all. Runs that share a program are trained side
    by side, see ``batches``.

    Args:
        bases: configs; see ``planned``, as for seeds and folder.
        seeds: seeds of each.
        folder: folder of the run folders.
        console: console for progress; standard output if None.

    Raises:
        Interrupted, ValueError: see ``trained``.
    """
    console = console or Console()
    for batch in batches(planned(bases, seeds=seeds, folder=folder)):
        yield from ended(batch, console=console)


def ended(batch: list[Config], *, console: Console) -> list[tuple[Config, Result]]:
    """Trains a batch, and gives its runs at their ends; none of an agent that diverged, which is
    told of."""
    try:
        return list(zip(batch, trained_together(batch, console=console), strict=True))
    except FloatingPointError as error:  # of an agent, which is a batch of its own
        console.print(f"{batch[0].folder}: {error}", soft_wrap=True, markup=False)
        return []


def planned(bases: Iterable[Config], *, seeds: Iterable[int], folder: Path) -> list[Config]:
    """Lists the runs of a sweep, each with its folder.

    All configs on one seed come before any on the next, so that a sweep whose runs share no program
    has something of everything when it is cut off.

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
    check_runs(configs)


def check_runs(configs: list[Config]) -> None:
    """Refuses runs of which one cannot be trained; writes nothing.

    Raises:
        ValueError: in one sentence.
    """
    for config in configs:
        prepared(config, resume=has_begun(config)).close()


def batches(configs: list[Config]) -> list[list[Config]]:
    """Gathers the runs of a sweep that share a program, those of the first run first.

    They do if their simulator is written in JAX, no agent is trained, and they differ in nothing
    but their seeds and the values of ``build.traceable``. No more are gathered than fill the
    environments that a device steps at once, or the memory that populations may take.
    """
    alike: list[list[Config]] = []
    for config in configs:
        same = [group for group in alike if _program(group[0]) == _program(config)]
        if same:
            same[0].append(config)
        else:
            alike.append([config])
    return [batch for group in alike for batch in _evenly(group, _most_at_once(group))]


def _program(config: Config) -> tuple[Config, tuple[str, ...]]:
    """What two runs have in common if they share a program."""
    names, neutral = traceable(config), {"keep": 1, "fraction": 0.5}
    own = {n.partition(".")[2] for n in names if n.startswith("sparsity.")}
    return replace(
        config,
        seed=0,
        out=None,
        algorithm=replace(config.algorithm, sigma=1.0),
        optimizer=replace(config.optimizer, learning_rate=1.0),
        sparsity=replace(config.sparsity, **{name: neutral[name] for name in own}),
    ), names


@pinned()
def _most_at_once(group: list[Config]) -> int:
    """How many runs of a program are trained side by side."""
    if len(group) == 1:
        return 1
    config = group[0]
    task = build_task(config)
    if suite_of(task).host_evaluate is not None or config.agent.name is not None:
        return 1
    members = config.algorithm.num_members
    num_episodes = members * config.algorithm.episodes_per_member
    num_envs = config.num_envs or default_num_envs(num_episodes, terminates=task.terminates)
    weights = jax.eval_shape(build_policy(config, task).init, jax.random.key(0))
    d = sum(leaf.size for leaf in jax.tree.leaves(weights))
    return max(1, min(most_envs() // num_envs, STORED_ENTRIES // (members * d)))


def _evenly(group: list[Config], most: int) -> list[list[Config]]:
    """The group in as few parts as hold at most so many each, of nearly one size."""
    size = -(-len(group) // -(-len(group) // most))
    return [group[start : start + size] for start in range(0, len(group), size)]


def trained_together(configs: list[Config], *, console: Console | None = None) -> list[Result]:
    """Gives the runs of a batch at their ends; see ``trained``.

    Those that were cut off at another generation than the others are trained apart from them.
    """
    runs = [start(config, resume=has_begun(config)) for config in configs]
    in_step: dict[tuple[bool, int], list[int]] = {}
    for i, run in enumerate(runs):
        in_step.setdefault((run.is_done, run.number), []).append(i)
    results: dict[int, Result] = {}
    for places in in_step.values():
        made = go_together([runs[i] for i in places], console or Console())
        results |= zip(places, made, strict=True)
        if interrupted := next((r.interrupted for r in made if r.interrupted), None):
            raise Interrupted(interrupted)
    return [results[i] for i in range(len(runs))]


def trained(config: Config, *, console: Console | None = None) -> Result:
    """Gives a run at its end: trains it, goes on with what is in its folder, or reads it.

    Raises:
        Interrupted: if a signal ended the run early.
        ValueError: in one sentence, if ``train`` refuses the config, or its folder holds a run of
            another config or of more generations.
    """
    (result,) = trained_together([config], console=console)
    return result


def has_begun(config: Config) -> bool:
    """Tells whether a run is in its folder.

    Raises:
        ValueError: in one sentence, if what is there is no beginning of the run.
    """
    folder = config.folder
    if not (folder / "config.yaml").is_file():
        return False
    # nothing is made of what is there: its task must be that of the sweep
    _check_same(read_config(folder, trust=True), config)
    check_limits(folder, config)
    return True


def _check_same(saved: Config, asked: Config) -> None:
    if asked.shares is None:  # as many as it began with
        asked = replace(asked, shares=saved.shares)
    if saved.digest == asked.digest:
        return
    changed = differences(saved, asked)
    names = ", ".join(name for name in changed if name not in (*CHANGEABLE, "out"))
    raise ValueError(f"run folder {asked.folder} holds a run of other settings: {names}")
