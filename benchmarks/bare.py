"""A simulator alone: stepped with zero actions, without a policy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nesht_jax.envs import make_environment


def pool(task: str, size: int, threads: int) -> Callable[[], int]:
    """One step of every environment of a pool; returns how many steps that were."""
    import envpool

    made = envpool.make(
        task.removeprefix("envpool/"),
        env_type="gymnasium",
        num_envs=size,
        num_threads=threads,
        seed=0,
    )
    made.reset()
    still = np.zeros((size, *made.action_space.shape))

    def step() -> int:
        made.step(still)
        return size

    return step


def scan(task: str, size: int, *, steps: int) -> Callable[[], int]:
    """Steps of a batch in one compiled loop; returns how many. Whoever has fallen lies there."""
    environment = make_environment(task)
    action = jnp.zeros((size, len(environment.spec.action_low)))

    @jax.jit
    def run(states):
        def step(states, _):
            after = jax.vmap(environment.step)(states, action)
            return jax.tree.map(lambda x, s: x.astype(s.dtype), after.state, states), after.reward

        return jax.lax.scan(step, states, length=steps)

    states, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), size))
    jax.block_until_ready(run(states))

    def step() -> int:
        jax.block_until_ready(run(states))
        return steps * size

    return step
