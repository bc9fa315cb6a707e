"""What a run came to: read from its last state, and drawn into its folder."""

from pathlib import Path
from signal import Signals
from typing import NamedTuple

from nesht_jax.policy.policy import segment_norms
from nesht_jax.report import figures, notebook
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import Row
from nesht_jax.report.wiring import Proposed, Wiring, search_picture, wiring_picture
from nesht_jax.run.agent import RunState
from nesht_jax.run.build import Experiment
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import projected
from nesht_jax.run.policies import NAME as POLICIES
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.reading import reading, size_in_words, wiring
from nesht_jax.run.robot import NAME as ROBOT
from nesht_jax.run.robot import robot
from nesht_jax.run.yaml import write
from nesht_jax.types import Params


class Result(NamedTuple):
    """What a run came to.

    A notebook shows it as one sentence, the law of the policy and the pictures.

    Attributes:
        folder: run folder, where everything lies.
        config: config of the run.
        state: state after the last generation; ``state.params`` is the center.
        rows: metrics, one row a generation; row 0 is the evaluation before the first.
        interrupted: signal that ended the run early, if one did.
        reading: what the policy reads, as sparse as its method makes it; None of images.
        size: what the policy takes to write down, in words; empty where it is as large as usual.
    """

    folder: Path
    config: Config
    state: RunState
    rows: list[Row]
    interrupted: Signals | None
    reading: Reading | None = None
    size: str = ""

    def __repr__(self) -> str:
        return f"<Result {self.folder}, {self._sentence()}>"

    def _repr_html_(self) -> str:
        return notebook.fragment(self._sentence(), self.reading, self.folder)

    def _sentence(self) -> str:
        return notebook.sentence(self.config.task, self.rows, self.reading)


def conclude(
    config: Config,
    experiment: Experiment,
    state: RunState,
    rows: list[Row],
    interrupted: Signals | None,
    *,
    draws: bool,
) -> Result:
    """Reads what a run came to.

    Args:
        config: config of the run.
        experiment: task and policy of the run.
        state: last state of the run, on this process.
        rows: metrics, one row a generation.
        interrupted: signal that ended it early, if one did.
        draws: whether pictures are written into the run folder.
    """
    params, _ = projected(experiment, state)
    reads = reading(config, experiment.task, experiment.policy, params)
    wires = wiring(config, experiment.task, experiment.policy, params)
    words = size_in_words(config, experiment.policy, params) if wires else ""
    result = Result(config.folder, config, state, rows, interrupted, reads, words)
    if draws:
        _draw(config, experiment, result, params)
        if wires is not None:
            _draw_search(config, result, wires)
    return result


def _draw(config: Config, experiment: Experiment, result: Result, params: Params) -> None:
    by_fraction = experiment.projection and config.sparsity.fraction
    fraction = f" β={config.sparsity.fraction:g}" if by_fraction else ""
    title = f"{config.task} ×{config.distractors}, {config.method}{fraction}"
    trained, judged = config.horizon, config.evaluation.horizon
    told = ["population"]
    if trained is not None and judged is not None and trained < judged:
        told.append("in shorter episodes")
    if experiment.task.alive_bonus and not config.algorithm.alive_bonus:
        told.append("without the alive bonus")
    path = result.folder / "learning_curve.png"
    figures.learning_curve(result.rows, path, title=title, of=", ".join(told))
    if result.reading is not None:
        still = robot(result.folder, experiment.task)
        if still is not None:
            write(result.folder / ROBOT, still)
        path = result.folder / "sensors.png"
        figures.sensors_picture(result.reading, path, title=title, robot=still)
        return
    norms = segment_norms(params, experiment.policy.layers, config.distractors).tolist()
    if norms:
        figures.segment_picture(norms, result.folder / "segments.png", title=title)


def _draw_search(config: Config, result: Result, wires: Wiring) -> None:
    title = f"{config.task} ×{config.distractors}, {config.method}"
    wiring_picture(wires, result.folder / "architecture.png", title=title)
    chooses_edges = {"edges", "mask"} & set(config.search.space)
    if not chooses_edges or not (result.folder / POLICIES).is_file():
        return
    arrays = read_arrays(result.folder)
    proposed = Proposed(arrays["generation"], arrays["edges"])
    path, target = result.folder / "search.png", config.search.target
    search_picture(result.rows, proposed, wires, path, title=title, target=target)
