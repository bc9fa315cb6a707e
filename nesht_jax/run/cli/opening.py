"""What a run tells at its start: where it computes, and how to go on if it is cut off."""

from collections.abc import Iterator

import jax

from nesht_jax.envs.episode_queue import default_num_envs
from nesht_jax.envs.host import cores
from nesht_jax.envs.suite import Environment
from nesht_jax.run import processes
from nesht_jax.run.cli.conclusion import how_to_go_on
from nesht_jax.run.machine import idle_accelerator
from nesht_jax.run.train import Run
from nesht_jax.shares import make_mesh


def opening(run: Run) -> Iterator[str]:
    """Makes the lines."""
    config, device = run.config, jax.local_devices()[0].device_kind
    in_jax = isinstance(run.experiment.task.simulator, Environment)
    if (shares := config.shares or 1) > 1:
        mesh = make_mesh(shares, processes.devices_of_all())
        yield (
            f"{processes.number()} processes with {jax.device_count()} devices, of which "
            f"{mesh.size} are used, and {shares} shares of the population"
        )
    where = f"on {device}" if in_jax else f"on {cores()} CPU cores, updates on {device}"
    yield f"{config.task} ({config.method}): episodes {where}{_at_once(run, in_jax=in_jax)}"
    if in_jax and (idle := idle_accelerator()) is not None:
        yield idle
    yield f"If it is cut off: {how_to_go_on(config)}"


def _at_once(run: Run, *, in_jax: bool) -> str:
    """How many episodes are played at once, where that is known before the first."""
    config, task, shares = run.config, run.experiment.task, run.config.shares or 1
    episodes = config.num_played * config.algorithm.episodes_per_member // shares
    if config.agent.name is not None:
        number = config.num_envs or 1
    elif config.num_envs is not None:
        number = min(config.num_envs, episodes)
    elif in_jax:
        number = default_num_envs(episodes, terminates=task.terminates)
    elif task.name.startswith("envpool/"):
        number = episodes
    else:
        return ""
    return f", {number} at once" + (" of each share" if shares > 1 else "")
