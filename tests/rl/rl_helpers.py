"""Tasks, transitions and agents made by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nesht_jax.envs.tasks import make_task
from nesht_jax.rl.agent import Agent, AgentState
from nesht_jax.rl.dqn import make_dqn
from nesht_jax.rl.ppo import make_ppo
from nesht_jax.rl.replay import empty_experience
from nesht_jax.rl.sac import make_sac
from nesht_jax.types import Policy, Task

KEY = jax.random.key(7)
ADAM = optax.adam(1e-3)


def task_of(features=3, low=(-1.0,), high=(1.0,), **fields):
    """A task that nothing simulates."""
    fields = {"name": "test/task", "options": {}, "horizon": None, "discrete": False} | fields
    bounds = {"action_low": np.float32(low), "action_high": np.float32(high)}
    return Task(observation_size=features, **bounds, **fields)


def choice_task(features=4, choices=2, **fields):
    scores = np.full(choices, np.inf)
    return task_of(features, -scores, scores, discrete=True, **fields)


def transitions(task, number, seed=0):
    """Random transitions of a task, one a row, of which about a third terminated."""
    generator = np.random.default_rng(seed)

    def fill(leaf):
        if leaf.dtype == bool:
            return jnp.asarray(generator.random(leaf.shape) < 0.3)
        return jnp.asarray(generator.normal(size=leaf.shape), jnp.float32)

    filled = jax.tree.map(fill, empty_experience(task, number))
    action = jnp.asarray(np.clip(filled.action, task.action_low, task.action_high))
    return filled._replace(action=action, truncated=filled.truncated & ~filled.terminated)


def row(experience, i):
    """Transition i, of one environment."""
    return jax.tree.map(lambda x: x[i : i + 1], experience)


def stacked(optimizer):
    """An optimizer for networks stacked on a leading axis, each with a state of its own."""
    inner = optax.with_extra_args_support(optimizer)

    def update(gradient, state, params, *, key):
        keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))

        def one(gradient, state, params, key):
            return inner.update(gradient, state, params, key=key)

        return jax.vmap(one)(gradient, state, params, keys)

    return optax.GradientTransformationExtraArgs(jax.vmap(inner.init), update)


def jitted(agent):
    """The same agent, compiled."""
    init, act, learn = (jax.jit(part) for part in agent[:3])
    return agent._replace(init=init, act=act, learn=learn)


class Theirs(SimpleNamespace):
    """As much of rejax's state as an update of theirs reads."""

    def replace(self, **parts):
        return Theirs(**(vars(self) | parts))


def compiled(update):
    """An update of theirs, ``(state, *batch) -> state``, compiled."""
    inner = jax.jit(lambda parts, *batch: vars(update(Theirs(**parts), *batch)))
    return lambda state, *batch: Theirs(**inner(vars(state), *batch))


def recorder(task, act, capacity=256):
    """An agent that does what ``act`` says of (key, observations), and learns by heart."""

    def init(key):
        experience = empty_experience(task, capacity, 2)
        return AgentState(key, jnp.int32(0), {}, (), experience)

    def learn(state, experience):
        place = state.steps // 2
        heart = jax.tree.map(lambda all_, new: all_.at[place].set(new), state.rest, experience)
        return state._replace(steps=state.steps + 2, rest=heart), {"finite": jnp.asarray(True)}

    policy = Policy(lambda key: {}, lambda params, moments, observation: observation)
    return Agent(init, lambda state, key, seen: act(key, seen), learn, policy)


CARTPOLE, PENDULUM = "gymnax/CartPole-v1", "gymnax/Pendulum-v1"
SMALL = ("dqn", "sac", "ppo", "ppo-choices")


def small_agent(name, actor=ADAM, critic=ADAM, **rules):
    """A tiny agent, by a name of ``SMALL``, and a task for it, of two environments."""
    off_policy = {"hidden": (8,), "batch_size": 4, "replay_size": 16, "random_steps": 6} | rules
    if name == "dqn":
        task = make_task(CARTPOLE, distractors=1)
        return task, make_dqn(task, optimizer=actor, **({"target_every": 2} | off_policy))
    optimizers = {"actor_optimizer": actor, "critic_optimizer": critic}
    if name == "sac":
        task = make_task(PENDULUM, horizon=5)
        return task, make_sac(task, **optimizers, temperature_optimizer=ADAM, **off_policy)
    task = make_task(CARTPOLE if name == "ppo-choices" else PENDULUM, horizon=5)
    sizes = {"hidden": (8,), "num_envs": 2, "num_steps": 4, "batch_size": 4, "num_epochs": 2}
    return task, make_ppo(task, **optimizers, **(sizes | rules))
