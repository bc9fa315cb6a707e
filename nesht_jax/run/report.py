"""What the page of a run tells, gathered from its folder and measured by playing its policy."""

import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from nesht_jax.policy.activation import CHOICE
from nesht_jax.report.page import Pruned, Run, picture_uri
from nesht_jax.report.rows import evaluations, read_rows
from nesht_jax.report.statistics import score
from nesht_jax.report.wiring import wiring_picture
from nesht_jax.run.ambient import pinned
from nesht_jax.run.build import Experiment, Stream, stream
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluation_task, learned, make_play
from nesht_jax.run.policies import NAME as POLICIES
from nesht_jax.run.policies import Learned, Which, read_arrays
from nesht_jax.run.provenance import read_sittings
from nesht_jax.run.reading import reading, size_in_words, wiring
from nesht_jax.run.render import FORMATS
from nesht_jax.run.repeat import changed, command, settings_of
from nesht_jax.run.robot import NAME as ROBOT
from nesht_jax.run.robot import robot
from nesht_jax.run.yaml import read_config
from nesht_jax.sparse.projection import make_projection
from nesht_jax.types import Params, is_phantom

MOST_POINTS = 12
"""Numbers of weights, or inputs, that a policy is played with."""


@pinned()
def gather(
    folder: Path,
    *,
    generation: Which | None = None,
    episodes: int | None = 20,
    trust: bool = False,
) -> Run:
    """Gathers all that a page tells of one run.

    Args:
        folder: run folder.
        generation: see ``load``.
        episodes: episodes to play at each number of weights, from the same resets; None: its policy
            is not played, and its robot not drawn.
        trust: see ``load``.

    Raises:
        ValueError: if the run or its policy does not read, is not trusted, or was never evaluated.
    """
    config, log = read_config(folder, trust=trust), folder / "metrics.jsonl"
    rows = read_rows(log) if log.is_file() else []
    if not evaluations(rows):
        raise ValueError(f"{folder} has no evaluation yet: there is nothing to report")
    config, experiment, at = learned(folder, generation, trust=trust)
    reads = reading(config, experiment.task, experiment.policy, at.params)
    films = [path for ending in FORMATS if (path := folder / f"film{ending}").is_file()]
    still = None if films or episodes is None else robot(folder, experiment.task)
    return Run(
        name=folder.resolve().name,
        task=config.task,
        generation=at.generation,
        rows=rows,
        settings=settings_of(config),
        changed=changed(config),
        command=command(config, generations=rows[-1].generation),
        made=_made(folder),
        reading=reads,
        pruned=[] if episodes is None else pruned(config, experiment, at, episodes=episodes),
        unit="inputs" if by_rows(config) else "params",
        kernels={} if reads is None else _kernels(folder, experiment.policy.layers[0].kernel),
        film=picture_uri(films[0].name, films[0].read_bytes()) if films else "",
        robot="" if still is None else picture_uri(ROBOT, still),
        wiring=_wiring(config, experiment, at.params),
        size=size_in_words(config, experiment.policy, at.params) if config.structured else "",
    )


def _made(folder: Path) -> str:
    sittings = read_sittings(folder)
    if not sittings:
        return "Where and when it was trained is not known."
    last = sittings[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last.get("versions", {}).items())
    commit = f", commit {last['commit']}" if last.get("commit") else ""
    return (
        f"Trained in {len(sittings)} sitting{'s' * (len(sittings) > 1)} until "
        f"{last.get('end') or last.get('begin')} on {last.get('device')} ({last.get('cores')} "
        f"cores), Python {last.get('python')}: {versions}{commit}."
    )


def _wiring(config: Config, experiment: Experiment, params: Params) -> str:
    """The picture of an architecture as a data URI; empty where there is none."""
    wires = wiring(config, experiment.task, experiment.policy, params)
    if wires is None:
        return ""
    drawn = io.BytesIO()
    wiring_picture(wires, drawn, title="")
    return picture_uri("architecture.png", drawn.getvalue())


def by_rows(config: Config) -> bool:
    """Whether a run keeps or zeroes whole inputs."""
    return config.sparsity.cuts and config.sparsity.unit == "row"


def pruned(config: Config, experiment: Experiment, at: Learned, *, episodes: int) -> list[Pruned]:
    """Plays a policy with its k largest params, or inputs, for some k up to all that live.

    Args:
        config: config of the run, whose sparsity tells whether inputs are counted.
        experiment: task and policy of the run.
        at: policy that is pruned.
        episodes: episodes for each k, from the same resets.
    """
    play, close = make_play(
        evaluation_task(config, experiment.task),
        experiment.policy,
        episodes=episodes,
        seed=stream(config.seed, Stream.REPORT),
        num_envs=config.num_evaluation_envs,
    )
    keep_largest, living = _pruning(config, experiment, at.params)
    first = experiment.policy.layers[0] if experiment.policy.layers else None
    points = []
    try:
        for k in points_of(living):
            params = keep_largest(k)
            played = play(0, params, at.moments)
            kernel = None if first is None or first.kind != "dense" else leaf(params, first.kernel)
            points.append(Pruned(k, score(played.fitness, played.steps), kernel))
    finally:
        close()
    return points


def _pruning(
    config: Config, experiment: Experiment, params: Params
) -> tuple[Callable[[int], Params], int]:
    """What keeps the k largest units of a policy, and how many live."""
    first = experiment.policy.layers[0].kernel if by_rows(config) else None

    def group(path: tuple[str, ...]) -> str | None:
        return "all" if path[-1] != CHOICE and first in (None, "/".join(path)) else None

    def keep_largest(k: int) -> Params:
        return make_projection(keep=k, unit="row" if first else "weight", scope=group)(params)

    if first is not None:
        return keep_largest, int(leaf(params, first).any(1).sum())
    weights = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
        if not is_phantom(path) and np.issubdtype(leaf.dtype, np.floating)
    ]
    return keep_largest, sum(int((leaf != 0).sum()) for leaf in weights)


def points_of(living: int) -> list[int]:
    """Numbers up to ``living``: all of few, else about evenly spaced in their logarithm."""
    if living <= MOST_POINTS:
        return list(range(1, max(living, 1) + 1))
    return sorted({int(k) for k in np.geomspace(1, living, MOST_POINTS).round()})


def leaf(params: Params, name: str) -> Float[np.ndarray, "..."]:
    """The leaf of params whose path, joined by "/", is ``name``."""
    for path, array in jax.tree_util.tree_flatten_with_path(params)[0]:
        if jax.tree_util.keystr(path, simple=True, separator="/") == name:
            return np.asarray(array)
    raise KeyError(name)


def _kernels(folder: Path, name: str) -> dict[int, Float[np.ndarray, "inputs outputs"]]:
    """The first kernel at every evaluation that is kept."""
    if not (folder / POLICIES).is_file():
        return {}
    arrays = read_arrays(folder)
    stack = arrays.get(f"params/{name}", ())
    return dict(zip(arrays["generation"].tolist(), stack, strict=False))
