"""A run whose policy gradients train: its agent, its state, and its generations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key

from nesht_jax.envs.compiler import compiler_options
from nesht_jax.envs.suite import Environment
from nesht_jax.envs.tasks import make_distractors, make_vector
from nesht_jax.es.nes import State
from nesht_jax.rl.agent import Agent, AgentState
from nesht_jax.rl.dqn import make_dqn
from nesht_jax.rl.host import HostInteraction
from nesht_jax.rl.interaction import EnvState, Progress, make_interaction
from nesht_jax.rl.ppo import make_ppo
from nesht_jax.rl.sac import make_sac
from nesht_jax.rl.updates import FirstWeights, as_drawn
from nesht_jax.run.config import Config
from nesht_jax.run.optimizer import check_optimizer, optimizers, with_masks
from nesht_jax.run.sections import SparsityConfig
from nesht_jax.sparse.initialization import glorot_by_live_fans, scaled_to_live_fans
from nesht_jax.sparse.rewiring import stacked
from nesht_jax.types import Moments, Params, Task

Advance = Callable[["AgentRunState"], tuple["AgentRunState", Progress]]
"""One generation of an agent; the state that it is given is gone."""


FIRST_WEIGHTS: dict[str, FirstWeights] = {
    "dense": as_drawn,
    "scaled": lambda key, params, mask: scaled_to_live_fans(params, mask),
    "glorot": glorot_by_live_fans,
}


class AgentRunState(NamedTuple):
    """What the next generation of an agent needs; a checkpoint is this, whole.

    Attributes:
        key: seed of the run, never consumed.
        generation: generations done.
        agent: state of the agent.
        envs: environments in their episodes; None where they are stepped outside JAX.
    """

    key: Key[Array, ""]
    generation: Int[Array, ""]
    agent: AgentState
    envs: EnvState | None

    @property
    def params(self) -> Params:
        """Params of the policy."""
        return self.agent.params

    @property
    def optimizer(self) -> Any:
        """State of the optimizer of the policy."""
        return self.agent.optimizer

    @property
    def moments(self) -> Moments | None:
        """Running moments of observations."""
        return self.agent.moments

    @property
    def search(self) -> None:
        """No architecture is searched."""
        return None


RunState = State | AgentRunState
"""What a run goes on from: the state of an evolution strategy, or of an agent."""


def build_agent(config: Config, task: Task, key: Key[Array, ""]) -> Agent:
    """Makes the agent of a config.

    Args:
        config: config of a run with an agent.
        task: task of the run.
        key: key of the masks.

    Raises:
        ValueError: if the agent does not go with the task, or an option with the agent.
    """
    if task.image_shape is not None:
        raise ValueError(f"agent.name {config.agent.name} is for vectors; {task.name} shows images")
    check_optimizer(config.optimizer)
    plain = _agent(config, task, _clipped(config, _optimizer(config)))
    like = _first_shapes(config, plain, key)
    actor_key, critic_key = jax.random.split(key)
    actor, critic = _optimizer(config), _optimizer(config)
    if config.sparsity.cuts:
        params = _zeros(like.params)
        actor = with_masks(actor, config.sparsity, plain.policy.layers, params, actor_key)
    if config.has_sparse_critics:
        critic = _critic_optimizer(config, critic, like, critic_key)
    return _agent(config, task, _clipped(config, actor), _clipped(config, critic))


def _first_shapes(config: Config, agent: Agent, key: Key[Array, ""]) -> AgentState:
    """Shapes of an agent's first state, once its optimizer was tried.

    Raises:
        ValueError: if the optimizer cannot be used.
    """
    update = optax.with_extra_args_support(_clipped(config, _optimizer(config))).update
    like = jax.eval_shape(agent.init, key)
    try:
        jax.eval_shape(lambda s: update(s.params, s.optimizer, s.params, key=key), like)
    except (TypeError, ValueError, AttributeError) as error:
        name = config.optimizer.name
        raise ValueError(f"optimizer {name} cannot be used: {error}") from error
    return like


def _critic_optimizer(
    config: Config, dense: optax.GradientTransformation, like: AgentState, key: Key[Array, ""]
) -> optax.GradientTransformation:
    chosen, fraction = config.sparsity, config.agent.critic_fraction
    if fraction is not None:
        chosen = replace(chosen, fraction=fraction, keep=None)
    if config.agent.name == "ppo":
        return with_masks(dense, chosen, (), _zeros(like.rest.critic.params), key)
    one = jax.tree.map(lambda leaf: leaf[0], _zeros(like.rest.critics.params))
    return stacked(partial(_masked, dense, chosen, one), jax.random.split(key, 2))


def _masked(
    dense: optax.GradientTransformation, chosen: SparsityConfig, params: Params, key: Any
) -> optax.GradientTransformation:
    return with_masks(dense, chosen, (), params, key)


def _zeros(shapes: Any) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _optimizer(config: Config) -> optax.GradientTransformation:
    chosen, agent = config.optimizer, config.agent
    rate: Any = chosen.learning_rate
    if agent.learning_rate_decay:
        rate = optax.linear_schedule(chosen.learning_rate, 0.0, max(1, config.num_updates))
    parts = []
    if chosen.weight_decay:
        parts.append(optax.add_decayed_weights(chosen.weight_decay, mask=_is_kernel))
    try:
        return optax.chain(*parts, optimizers()[chosen.name](rate, **chosen.options))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"optimizer {chosen.name} cannot be used: {error}") from error


def _clipped(
    config: Config, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The optimizer, given gradients whose norm, of dead weights too, is bounded."""
    most = config.agent.max_gradient_norm
    return optimizer if most is None else optax.chain(optax.clip_by_global_norm(most), optimizer)


def _is_kernel(params: Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _agent(
    config: Config,
    task: Task,
    actor: optax.GradientTransformation,
    critic: optax.GradientTransformation | None = None,
) -> Agent:
    chosen, critic = config.agent, actor if critic is None else critic
    common: dict[str, Any] = {
        "hidden": config.policy.hidden,
        "discount": chosen.discount,
        "batch_size": chosen.batch_size,
        "first_weights": FIRST_WEIGHTS[chosen.first_weights],
    }
    memory: dict[str, Any] = {
        "replay_size": chosen.replay_size,
        "random_steps": chosen.random_steps,
    }
    if chosen.name == "dqn":
        return make_dqn(
            task,
            optimizer=actor,
            epsilon=chosen.epsilon,
            target_every=chosen.target_every,
            **common,
            **memory,
        )
    if chosen.name == "sac":
        return make_sac(
            task,
            actor_optimizer=actor,
            critic_optimizer=critic,
            temperature_optimizer=_clipped(config, _optimizer(config)),
            target_share=chosen.target_share,
            reward_scale=chosen.reward_scale,
            **common,
            **memory,
        )
    return make_ppo(
        task,
        actor_optimizer=actor,
        critic_optimizer=critic,
        num_envs=config.num_envs or 1,
        num_steps=chosen.rollout,
        num_epochs=chosen.epochs,
        clip=chosen.clip,
        trace=chosen.trace,
        normalize_rewards=chosen.normalize_rewards,
        observation_clip=config.policy.clip,
        **common,
    )


def first_state(config: Config, task: Task, agent: Agent, key: Key[Array, ""]) -> AgentRunState:
    """Makes the state before the first generation.

    Args:
        config: config of the run.
        task: task of the run.
        agent: agent of the run.
        key: key of the run.
    """
    agent_key, envs_key = jax.random.split(jax.random.fold_in(key, 0))
    envs = None
    if isinstance(task.simulator, Environment):
        interaction = make_interaction(task, agent, num_envs=config.num_envs or 1)
        envs = jax.jit(interaction.init)(envs_key)
    state = jax.jit(agent.init)(agent_key)
    return AgentRunState(key, jnp.zeros((), jnp.int32), state, envs)


def make_advance(
    config: Config, task: Task, agent: Agent, *, seed: int
) -> tuple[Advance, Callable[[], None]]:
    """Makes what does one generation, and what frees its simulators.

    Environments outside JAX begin new episodes with every process, so that a resumed run is another
    than an uninterrupted one there.

    Args:
        config: config of the run.
        task: task of the run.
        agent: agent of the run.
        seed: seed of simulators and distractors outside JAX.
    """
    num_envs = config.num_envs or 1
    steps = max(1, config.agent.steps_per_generation // num_envs)
    if isinstance(task.simulator, Environment):
        interaction = make_interaction(task, agent, num_envs=num_envs)

        @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
        def in_jax(state: AgentRunState) -> tuple[AgentRunState, Progress]:
            assert state.envs is not None
            learned, envs, progress = interaction.steps(state.agent, state.envs, steps)
            moved = state._replace(generation=state.generation + 1, agent=learned, envs=envs)
            return moved, progress

        return in_jax, lambda: None
    vector = make_vector(task, num_envs=num_envs, seed=seed)
    distractors = make_distractors(task, num_envs=num_envs)
    host = HostInteraction(task, agent, vector, seed=seed, distractors=distractors)

    def outside(state: AgentRunState) -> tuple[AgentRunState, Progress]:
        learned, progress = host.steps(state.agent, steps)
        return state._replace(generation=state.generation + 1, agent=learned), progress

    return outside, vector.close


def outcome(progress: Progress) -> tuple[float | None, dict[str, float | None]]:
    """Tells the mean return of the episodes that ended, None if none did, and the metrics.

    Raises:
        FloatingPointError: if params of the agent are not finite.
    """
    if not bool(progress.metrics["finite"]):
        raise FloatingPointError(
            "the agent's params are no longer finite, and the run ends at its last checkpoint: "
            "begin another with a lower optimizer.learning_rate"
        )
    ended = int(progress.episodes)
    values = {n: np.asarray(v).item() for n, v in progress.metrics.items() if n != "finite"}
    numbers = {n: v if np.isfinite(v) else None for n, v in values.items()}
    return float(progress.returns) / ended if ended else None, numbers
