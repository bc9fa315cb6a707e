"""How policies trained on clean observations score on noisy ones: Gaussian noise on pixels, whole
numbers from 0 to 255, or on the features of vectors, in their own standard deviations.

    python benchmarks/robustness.py runs/envpool-Qbert-v5-*
    python benchmarks/robustness.py --deviations 0 0.1 0.3 1 --out vectors.csv runs/gymnax-*

Evaluates the policy of each run folder at each deviation, as Graesser et al. 2022 (arXiv
2206.10369) do for dense and sparse networks. Every deviation has the same resets.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring import Row, Table, command, planned

from nesht_jax.run.build import build_task
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.yaml import read_config


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    for config in planned(map(read_config, options.runs)):
        for deviation in options.deviations:
            table.add(measure(config, deviation, options.episodes))


def measure(config: Config, deviation: float, episodes: int) -> Row:
    """Evaluates a run where what it sees is noisy."""
    noise: dict[str, Any] = {"observation_noise": deviation}
    if build_task(config).image_shape is not None:
        noise = {"options": {"pixel_noise": deviation}}
    scores = evaluate_run(config.folder, episodes=episodes, **noise)
    return {
        "task": config.task,
        "method": config.method,
        "hidden": " ".join(map(str, config.policy.hidden)),
        "seed": config.seed,
        "sparsity": round(scores.thresholded_sparsity, 3),
        "noise": deviation,
        "mean": round(scores.thresholded.mean, 1),
        "standard_error": round(scores.thresholded.standard_error, 2),
        "episodes": scores.thresholded.episodes,
    }


def _options() -> argparse.Namespace:
    parser = command(__doc__, "robustness.csv")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    deviations = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    shown = " ".join(f"{deviation:g}" for deviation in deviations)
    parser.add_argument(
        "--deviations",
        type=float,
        nargs="+",
        default=deviations,
        help=f"standard deviations of the noise, in pixel values [{shown}]",
    )
    parser.add_argument("--episodes", type=int, default=20, help="games at each deviation [20]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
