"""The settings of a run as text, and the command that trains it again."""

import json
import math
import shlex
from operator import attrgetter
from typing import Any

from nesht_jax.run.config import Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.names import tuned_config


def settings_of(config: Config) -> dict[str, str]:
    """Writes every setting but task and folder as the command line takes it."""
    names = [name for name in leaves(Config) if name not in ("task", "out")]
    return {name: _as_text(attrgetter(name)(config)) for name in names}


def changed(config: Config) -> list[str]:
    """Names the settings that differ from the defaults."""
    default = settings_of(Config(task=config.task))
    return [name for name, value in settings_of(config).items() if value != default[name]]


def command(config: Config, *, generations: int) -> str:
    """Writes the command that trains the same run for this many generations.

    Of steps it tells where the learning rate ends with them.
    """
    settings, names = settings_of(config), changed(config)
    if tuned_config(config.task) is not None:
        names.append("task_options")  # a task that is named without them gets its tuned settings
    if not config.agent.learning_rate_decay:
        names = [name for name in names if name != "steps"]
    options = {name: settings[name] for name in names} | {"generations": str(generations)}
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shlex.join(["nesht", "train", config.task, *given])


def _as_text(value: Any) -> str:
    if value == math.inf:
        return ".inf"
    return json.dumps(value) if not isinstance(value, str) else value
