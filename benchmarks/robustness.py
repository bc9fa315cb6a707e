"""How policies trained on clean frames score on noisy ones: whole-number Gaussian noise on pixels.

    python benchmarks/robustness.py runs/Qbert-v5-beta0.0-seed0 runs/Qbert-v5-beta0.9-seed0

Evaluates the thresholded centre of each run folder at each deviation, in units of pixels from 0 to
255, as Graesser et al. 2022 (arXiv 2206.10369) do for dense and sparse networks. Every deviation
has the same resets.
"""

import argparse
from pathlib import Path

from runs import method
from table import write

from nesht_jax.run.config import read_config
from nesht_jax.run.evaluate import evaluate_run


def main() -> None:
    options = _parse()
    rows = []
    for folder in options.runs:
        config = read_config(folder)
        for deviation in options.deviations:
            scores = evaluate_run(
                folder, episodes=options.episodes, options={"pixel_noise": deviation}
            )
            found = scores.thresholded
            rows.append(
                {
                    "task": config.task,
                    "method": method(config.threshold.sparsity),
                    "seed": config.seed,
                    "sparsity": round(scores.thresholded_sparsity, 3),
                    "pixel_noise": deviation,
                    "mean": round(found.mean, 1),
                    "standard_error": round(found.standard_error, 2),
                    "episodes": found.episodes,
                }
            )
            print(rows[-1], flush=True)
            write(options.out, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    deviations = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    parser.add_argument("--deviations", type=float, nargs="+", default=deviations)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/robustness.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
