"""Training runs of a benchmark, each in a folder of its own; what is there is gone on with."""

from dataclasses import replace
from pathlib import Path

import jsonargparse

from nesht_jax.run.config import Config, add_config_arguments, from_arguments
from nesht_jax.run.train import Result, train


def read(files: list[str]) -> Config:
    """A config of YAML files, as ``nesht train`` reads them: the later go over the earlier."""
    parser = jsonargparse.ArgumentParser()
    add_config_arguments(parser)
    return from_arguments(parser, parser.parse_args([f"--config={file}" for file in files]))


def trained(base: Config, *, sparsity: float, seed: int, folder: Path) -> tuple[Config, Result]:
    """A run of a config with this sparsity and seed, at its end.

    Raises:
        SystemExit: if a signal ended it early; the same call goes on with it.
    """
    threshold = replace(base.threshold, sparsity=sparsity)
    config = replace(base, seed=seed, threshold=threshold, out=str(folder))
    result = train(config, resume=folder.exists())
    if result.interrupted:
        raise SystemExit(128 + result.interrupted)
    return config, result


def method(sparsity: float) -> str:
    """What the algorithm is called at this sparsity."""
    return "NESHT" if sparsity else "NES"
