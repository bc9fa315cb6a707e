"""Loops that scripts time side by side: a simulator alone, and training without files."""

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nesht_jax import make_environment
from nesht_jax.envs.compiler import compiler_options
from nesht_jax.envs.episode_queue import default_num_envs
from nesht_jax.report.rows import Row
from nesht_jax.run.build import Experiment, build, build_training, given, mesh_of
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import make_evaluate_center
from nesht_jax.run.generations import MOST_STEPS, make_run_generations
from nesht_jax.run.processes import replicated
from nesht_jax.types import Task

STEPS = 100
"""Steps whose actions are made beforehand, and of a scan between two looks at the clock."""


def zero_actions(task: Task, num_envs: int) -> Float[np.ndarray, "steps envs a"]:
    """Makes actions that are all zero."""
    return np.zeros((STEPS, num_envs, task.num_actions), np.float32)


def random_actions(task: Task, num_envs: int) -> Float[np.ndarray, "steps envs a"]:
    """Draws actions from [-1, 1]: a body that moves touches the ground more, which costs more."""
    shape = (STEPS, num_envs, task.num_actions)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def pool(task: Task, actions: Float[np.ndarray, "steps envs a"], threads: int) -> Callable[[], int]:
    """Makes one step of every environment of envpool's; it returns how many steps that were.

    A game plays the action of the highest score, so zero actions are its first.
    """
    import envpool

    simulator = task.simulator
    made: Any = envpool.make(
        simulator.name,
        env_type="gymnasium",
        num_envs=actions.shape[1],
        num_threads=threads,
        seed=0,
    )
    made.reset()
    coming = cycle([simulator.act(action) for action in actions])

    def step() -> int:
        made.step(next(coming))
        return actions.shape[1]

    return step


def scan(task: Task, actions: Float[np.ndarray, "steps envs a"]) -> Callable[[], int]:
    """Makes steps of a batch in one compiled loop; it returns how many. Who falls lies there."""
    environment = make_environment(task)
    steps, num_envs, _ = actions.shape

    @partial(jax.jit, compiler_options=compiler_options())
    def run(states: Any) -> Any:
        def step(states: Any, action: jax.Array) -> tuple[Any, jax.Array]:
            after = jax.vmap(environment.step)(states, action)
            return jax.tree.map(lambda x, s: x.astype(s.dtype), after.state, states), after.reward

        return jax.lax.scan(step, states, jnp.asarray(actions))

    keys = jax.random.split(jax.random.key(0), num_envs)
    states, _ = jax.jit(jax.vmap(environment.reset))(keys)
    jax.block_until_ready(run(states))

    def step() -> int:
        jax.block_until_ready(run(states))
        return steps * num_envs

    return step


def usual_num_envs(task: Task, num_members: int) -> int:
    """Environments of a suite in JAX that is told no number."""
    return default_num_envs(num_members, terminates=task.terminates)


class Training:
    """Training as ``nesht train`` does it, without evaluations, files and display.

    Attributes:
        state: state after the last generation.
    """

    def __init__(self, config: Config, experiment: Experiment | None = None) -> None:
        experiment = experiment or build(config)
        config = experiment.config
        evaluate_center, _ = make_evaluate_center(config, experiment)
        self.state, self._number = experiment.state, 0
        if (mesh := mesh_of(config)) is not None:
            self.state = replicated(self.state, mesh)
        self._run_generations = make_run_generations(
            experiment,
            build_training(config, experiment),
            evaluate_center,
            lambda number: False,
            [given(config)],
        )

    def generation(self) -> Row:
        """Does the next generation."""
        self._number += 1
        numbers = range(self._number, self._number + 1)
        (self.state,), ((row,),) = self._run_generations([self.state], numbers, [MOST_STEPS])
        return row
