"""The trained policies that come with the package: trains them, and packs each into kilobytes.

    python benchmarks/zoo.py hopper --seed 1

Trains an entry on a seed, or reads the run that is there; what it was at its best evaluation,
judged by fresh episodes, becomes the folder of the entry.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from nesht_jax.report.rows import Row, to_json
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.policies import NAME as POLICIES
from nesht_jax.run.policies import best_of, read_arrays
from nesht_jax.run.provenance import NAME as SITTINGS
from nesht_jax.run.provenance import read_sittings
from nesht_jax.run.report import gather
from nesht_jax.run.result import Result
from nesht_jax.run.settings import make_config
from nesht_jax.run.sweep import trained
from nesht_jax.run.yaml import dump
from nesht_jax.run.zoo import ZOO, Card

ENTRIES = {
    "hopper": (
        ["Hopper-v5", "select"],
        {"distractors": 20, "steps": 3_000_000, "evaluation": {"every": 20}},
    ),
    "halfcheetah": (
        ["HalfCheetah-v5", "select"],
        {"distractors": 20, "steps": 3_000_000, "evaluation": {"every": 20, "horizon": 1000}}
        | {"horizon": 100, "horizon_growth": 1.3, "horizon_growth_every": 150},
    ),
    "swimmer": (
        ["Swimmer-v5", "select"],
        {"distractors": 49, "steps": 3_000_000, "evaluation": {"every": 20}},
    ),
}
"""Words and settings of the run that makes each entry."""

EVALUATIONS = 10
"""Policies that an entry keeps, the best among them."""

ROWS = 40
"""Evaluations that its learning curve keeps."""

LEFT_OUT = ("command", "platform")
"""What a sitting tells of the machine that trained."""


def main() -> None:
    """Packs one entry."""
    options = _options()
    words, settings = ENTRIES[options.entry]
    config = make_config(*words, **settings)
    config = replace(config, seed=options.seed, out=None)
    config = replace(config, out=str(options.runs / config.folder.name))
    card = pack(config, trained(config), ZOO / options.entry, episodes=options.episodes)
    print(json.dumps(card._asdict(), indent=1))


def pack(config: Config, result: Result, entry: Path, *, episodes: int) -> Card:
    """Writes the folder of an entry."""
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "config.yaml").write_text(dump(replace(config, out=None)), encoding="utf-8")
    lines = [to_json(row) for row in thinned(result.rows)]
    (entry / "metrics.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    arrays = kept(read_arrays(result.folder))
    np.savez_compressed(entry / POLICIES, **arrays)  # pyright: ignore[reportArgumentType]
    last = read_sittings(result.folder)[-1]
    told = {name: value for name, value in last.items() if name not in LEFT_OUT}
    (entry / SITTINGS).write_text(json.dumps([told], indent=1) + "\n", encoding="utf-8")
    card = _card(config, result, entry, episodes)
    text = json.dumps(card._asdict(), indent=1, ensure_ascii=False) + "\n"
    (entry / "card.json").write_text(text, encoding="utf-8")
    return card


def thinned(rows: list[Row]) -> list[Row]:
    """Keeps some evaluations; each has the steps and the seconds since the one before."""
    evaluated = [i for i, row in enumerate(rows) if row.evaluation is not None]
    places = np.unique(np.linspace(0, len(evaluated) - 1, ROWS).round().astype(int))
    chosen, begin = [], 0
    for i in (evaluated[place] for place in places):
        since = rows[begin : i + 1]
        steps, seconds = sum(row.steps for row in since), sum(row.seconds for row in since)
        chosen.append(rows[i]._replace(steps=steps, seconds=round(seconds, 3)))
        begin = i + 1
    return chosen


def kept(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keeps some policies, evenly spaced, and the best."""
    best = best_of(arrays["return"])
    spaced = np.linspace(0, len(arrays["return"]) - 1, EVALUATIONS - 1).round().astype(int)
    places = np.unique([*spaced, best])
    return {name: stack[places] for name, stack in arrays.items()}


def _card(config: Config, result: Result, entry: Path, episodes: int) -> Card:
    found = evaluate_run(entry, episodes=episodes, generation="best")
    score, reads = found.thresholded, found.reading
    assert reads is not None  # no entry looks at images
    return Card(
        task=config.task,
        distractors=config.distractors,
        policy=reads.verdict(),
        weights=int(np.count_nonzero(reads.weights)),
        mean=round(score.mean, 1),
        low=round(score.low, 1),
        high=round(score.high, 1),
        episodes=score.episodes,
        steps=sum(row.steps for row in result.rows),
        seed=config.seed,
        command=gather(entry, episodes=None).command,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entry", choices=ENTRIES, help="entry to make")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run [0]")
    parser.add_argument("--episodes", type=int, default=200, help="fresh episodes [200]")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs [runs]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
