"""A simulator alone: stepped with given actions, without a policy."""

from collections.abc import Callable
from functools import partial
from itertools import cycle

import jax
import numpy as np

from nesht_jax.envs import make_environment, task_spec
from nesht_jax.envs.compiler import compiler_options

STEPS = 100
"""Steps whose actions are made beforehand, and of a scan between two looks at the clock."""


def zero_actions(task: str, size: int) -> np.ndarray:
    """[steps, size, a]."""
    return np.zeros((STEPS, size, len(task_spec(task).action_low)), np.float32)


def random_actions(task: str, size: int) -> np.ndarray:
    """[steps, size, a], uniform in [-1, 1]: a body that moves touches the ground more often, which
    costs a solver more."""
    shape = (STEPS, size, len(task_spec(task).action_low))
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def pool(task: str, actions: np.ndarray, threads: int) -> Callable[[], int]:
    """One step of every environment of a pool; returns how many steps that were. A game plays the
    largest of a, so zero actions are its first."""
    import envpool

    from nesht_jax.envs.envpool_tasks import make_task

    name = task.removeprefix("envpool/")
    made = envpool.make(
        name,
        env_type="gymnasium",
        num_envs=actions.shape[1],
        num_threads=threads,
        seed=0,
    )
    made.reset()
    coming = cycle([make_task(name, {}).act(action) for action in actions])

    def step() -> int:
        made.step(next(coming))
        return actions.shape[1]

    return step


def scan(task: str, actions: np.ndarray) -> Callable[[], int]:
    """Steps of a batch in one compiled loop; returns how many. Whoever has fallen lies there."""
    environment = make_environment(task)
    steps, size, _ = actions.shape

    @partial(jax.jit, compiler_options=compiler_options())
    def run(states):
        def step(states, action):
            after = jax.vmap(environment.step)(states, action)
            return jax.tree.map(lambda x, s: x.astype(s.dtype), after.state, states), after.reward

        return jax.lax.scan(step, states, actions)

    states, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), size))
    jax.block_until_ready(run(states))

    def step() -> int:
        jax.block_until_ready(run(states))
        return steps * size

    return step
