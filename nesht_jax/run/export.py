"""A trained policy, taken away: a file that needs neither this library nor a run folder.

A file holds numbers and quoted names, nothing else of a run folder. It is read again where that is
possible here, compared with the policy, and timed beside the dense policy of the same shape.
"""

import dataclasses
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from nesht_jax.report.rows import evaluations, finite, read_rows
from nesht_jax.run.evaluate import learned
from nesht_jax.run.exported import actions, player, seconds_of_one
from nesht_jax.run.formats import WRITERS
from nesht_jax.run.load import TrainedPolicy
from nesht_jax.run.names import Format
from nesht_jax.run.plain import PlainPolicy, like_training, plain
from nesht_jax.run.policies import Which
from nesht_jax.run.repeat import command
from nesht_jax.run.yaml import write
from nesht_jax.run.zoo import default_out

EXTRAS = ("onnx", "safetensors")
"""Formats whose writer is a package of their name, and an extra of ours."""


class Exported(NamedTuple):
    """A file that holds a policy, beside the dense policy of the same shape in the same format.

    Attributes:
        path: file.
        card: what is told of the policy, as JSON; None where the format has none.
        sensors: names of the inputs that are read.
        weights: number of weights that are not 0.
        size: bytes of the file.
        seconds: time of one action by the file, the median of many; None where nothing here runs
            it.
        dense_weights: weights of the dense policy.
        dense_size: bytes of its file.
        dense_seconds: time of one of its actions; None where nothing here runs it.
        how: what ran the files, in words; empty where nothing did.
        difference: largest difference between actions by the file and by the policy on 256
            observations like those of training; where nothing runs the file, of the arrays that it
            was written from.
    """

    path: Path
    card: Path | None
    sensors: tuple[str, ...]
    weights: int
    size: int
    seconds: float | None
    dense_weights: int
    dense_size: int
    dense_seconds: float | None
    how: str
    difference: float


def export(
    run: str | Path,
    to: Format = "numpy",
    *,
    path: str | Path | None = None,
    generation: Which | None = None,
    trust: bool = False,
) -> Exported:
    """Writes what a run has learned as one file, checks it, and times it.

    Args:
        run: run folder.
        to: "numpy", a Python file that needs NumPy alone; "c", a C99 header; "onnx", a model;
            "jax", a function for ``jax.export.deserialize``; "safetensors", arrays, with a card in
            JSON beside them.
        path: file to write; ``policy.py``, ``.h``, ... in the run folder if None.
        generation: see ``load``.
        trust: see ``load``.

    Raises:
        ValueError: if the run does not read, is not trusted, or keeps no such policy; if the policy
            looks at images or mixes its inputs; if a package is missing, and the message names what
            installs it.
    """
    folder, path = Path(run), None if path is None else Path(path)
    _check(to, path)
    config, experiment, at = learned(folder, generation, trust=trust)
    policy = TrainedPolicy(config, experiment.task, experiment.policy, at.params, at.moments)
    made, dense = plain(policy), plain(policy, dense=True)
    name, write_file = WRITERS[to]
    path = path or default_out(folder, name)
    write_file(made, path)
    card = None
    if to == "safetensors":
        card = path.with_suffix(".json")
        told = card_of(folder, policy, made, generation=at.generation)
        write(card, json.dumps(finite(told), indent=1, ensure_ascii=False, default=str) + "\n")
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        other = Path(place, name)
        write_file(dense, other)
        dense_size = other.stat().st_size
        players = [player(to, path, made), player(to, other, dense)]
    observations = like_training(policy)
    found = [one for one in players if one is not None]
    times: list[float | None] = [*seconds_of_one(found, observations), None, None]
    acts = made(observations) if players[0] is None else actions(players[0], observations)
    wanted = np.stack([policy(observation) for observation in observations])
    return Exported(
        path=path,
        card=card,
        sensors=made.sensors,
        weights=made.num_weights,
        size=path.stat().st_size,
        seconds=times[0],
        dense_weights=dense.num_weights,
        dense_size=dense_size,
        dense_seconds=times[1],
        how="" if players[0] is None else players[0].how,
        difference=float(np.abs(acts - wanted).max()),
    )


def _check(to: str, path: Path | None) -> None:
    if to not in WRITERS:
        raise ValueError(f"a policy is exported to {', '.join(WRITERS)}, got {to!r}")
    if to in EXTRAS and importlib.util.find_spec(to) is None:
        raise ValueError(f"export to {to} needs the package {to}: pip install 'nesht-jax[{to}]'")
    if to == "safetensors" and path is not None and path.suffix == ".json":
        raise ValueError(f"{path} is the place of the card: give arrays another ending")


def card_of(
    folder: Path, policy: TrainedPolicy, made: PlainPolicy, *, generation: int
) -> dict[str, Any]:
    """Tells what a policy plays, reads and earns, and how it was trained.

    Args:
        folder: run folder.
        policy: policy of the run.
        made: arrays of the policy.
        generation: generation after which it was learned.
    """
    log, reads = folder / "metrics.jsonl", policy.reading
    assert reads is not None  # of images there are no plain arrays
    evaluated = evaluations(read_rows(log) if log.is_file() else []).get(generation)
    earned = None if evaluated is None else evaluated._asdict()
    settings = dataclasses.asdict(policy.config)
    del settings["out"]
    return {
        "made_by": f"nesht_jax {version('nesht-jax')}",
        "task": made.task,
        "num_features": made.num_features,
        "distractors": policy.task.distractors,
        "feature_names": reads.sensors,
        "action_names": made.motors,
        "reads": dict(zip(made.inputs.tolist(), made.sensors, strict=True)),
        "policy": reads.verdict(),
        "law": reads.law(),
        "law_units": reads.units,
        "weights": made.num_weights,
        "dense_weights": sum(layer.fan_in * layer.fan_out for layer in policy.policy.layers),
        "generation": generation,
        "evaluation": earned,
        "command": command(policy.config, generations=generation) if generation else None,
        "settings": settings,
    }
