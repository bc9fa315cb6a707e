"""What a run tells at its start: where it computes, and how to go on if it is cut off."""

from collections.abc import Iterator

import jax

from nesht_jax.envs.host import cores
from nesht_jax.envs.suite import Environment
from nesht_jax.run.cli.conclusion import how_to_go_on
from nesht_jax.run.machine import idle_accelerator
from nesht_jax.run.train import Run


def opening(run: Run) -> Iterator[str]:
    """Makes the lines."""
    config, device = run.config, jax.devices()[0].device_kind
    in_jax = isinstance(run.experiment.task.simulator, Environment)
    where = f"on {device}" if in_jax else f"on {cores()} CPU cores, updates on {device}"
    yield f"{config.task} ({config.method}): episodes {where}"
    if in_jax and (idle := idle_accelerator()) is not None:
        yield idle
    yield f"If it is cut off: {how_to_go_on(config)}"
