"""DQN: deep Q-learning, for tasks whose actions are choices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from nesht_jax.policy.policy import make_policy
from nesht_jax.rl.agent import Agent, AgentState, Experience, Metrics
from nesht_jax.rl.mlp import make_mlp, uniform
from nesht_jax.rl.replay import Replay, empty_experience, extend, make_replay, sample
from nesht_jax.rl.updates import (
    FirstWeights,
    Trained,
    all_finite,
    as_drawn,
    begin,
    check_replay,
    check_shares,
    descend,
    mean_snr,
)
from nesht_jax.sparse.top_k import checked_count
from nesht_jax.types import Params, Task

SNR_EVERY = 5_000
"""Updates from one measurement of the gradient's signal to noise to the next, as published."""


class DqnRest(NamedTuple):
    """What DQN remembers beside its Q network.

    Attributes:
        updates: updates done.
        target: params of the target network, a copy of the Q network's.
        replay: transitions to learn from.
    """

    updates: Int[Array, ""]
    target: Params
    replay: Replay


def make_dqn(
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    hidden: tuple[int, ...] = (512, 512),
    discount: float = 0.99,
    batch_size: int = 128,
    replay_size: int = 100_000,
    random_steps: int = 1_000,
    epsilon: float = 0.01,
    target_every: int = 100,
    first_weights: FirstWeights = as_drawn,
) -> Agent:
    """Makes DQN; the policy is the Q network itself, whose outputs are the scores of choices.

    θ ← optimizer(∇ mean (r + γ max_a Q'(s', a) - Q_θ(s, a))²), one update a step of all
    environments. Nothing follows a step that terminated; what follows one that was truncated
    counts.

    Defaults are those published for sparse training, with Adam of learning rate 1e-3. As there,
    kernels begin He-normal, truncated, and the last layer uniform on ± 0.03 with biases of -0.2.

    Args:
        task: task whose actions are choices.
        optimizer: any optax chain. ``update`` is given ``key=``; where its state holds a mask, the
            weights that it says are dead are 0 from the start, in the target network too.
        hidden: widths of the hidden layers, of relu.
        discount: γ in [0, 1].
        batch_size: transitions of an update, drawn with replacement.
        replay_size: transitions kept.
        random_steps: environment steps, of all environments together, that choose uniformly and
            learn nothing.
        epsilon: share of later steps that choose uniformly.
        target_every: updates from one copy of the Q network to the next; 1 copies after each.
        first_weights: what is made of the first weights of sparse params, see ``FirstWeights``.

    Raises:
        ValueError: if actions of the task are no choices, or a number is out of its range.

    Reference: Mnih et al. 2015 (doi 10.1038/nature14236), algorithm 1; Graesser et al. 2022
    (arXiv 2206.10369) and its code, ``rigl/rl/tfagents``.
    """
    if not task.discrete:
        raise ValueError(f"DQN needs a choice of actions, and {task.name} has none; use SAC or PPO")
    check_shares(discount=discount, epsilon=epsilon)
    check_replay(batch_size=batch_size, replay_size=replay_size, random_steps=random_steps)
    checked_count("target_every", target_every)
    network = make_mlp(
        task.num_features,
        (*hidden, task.num_actions),
        activation=jax.nn.relu,
        hidden_kernel=jax.nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
        last_kernel=uniform(0.03),
        last_bias=-0.2,
    )
    policy = make_policy(task, hidden=hidden, activation=jax.nn.relu, output="scale")
    values = jax.vmap(network.apply, (None, 0))

    def init(key: Key[Array, ""]) -> AgentState:
        own_key, params_key, first_key = jax.random.split(key, 3)
        trained = begin(optimizer, network.init(params_key), first_weights, first_key)
        zero, replay = jnp.zeros((), jnp.int32), make_replay(empty_experience(task, replay_size))
        rest = DqnRest(zero, trained.params, replay)
        return AgentState(own_key, zero, trained.params, trained.optimizer, rest)

    def act(
        state: AgentState, key: Key[Array, ""], observations: Float[Array, "e o"]
    ) -> Float[Array, "e a"]:
        explore_key, choice_key = jax.random.split(key)
        shape = observations.shape[:1]
        share = jnp.where(state.steps < random_steps, jnp.float32(1), jnp.float32(epsilon))
        explores = jax.random.uniform(explore_key, shape, jnp.float32) < share
        random = jax.random.randint(choice_key, shape, 0, task.num_actions, jnp.int32)
        best = values(state.params, observations).argmax(1)
        return jax.nn.one_hot(
            jnp.where(explores, random, best), task.num_actions, dtype=jnp.float32
        )

    def update(state: AgentState, replay: Replay) -> tuple[Any, Metrics]:
        batch_key, key = jax.random.split(jax.random.fold_in(state.key, state.steps))
        batch, target = sample(replay, batch_key, batch_size), state.rest.target

        def loss(params: Params, told: Experience) -> Float[Array, ""]:
            return td_loss(values, params, target, told, discount=discount)

        cost, gradient = jax.value_and_grad(loss)(state.params, batch)
        snr = jax.lax.cond(
            state.rest.updates % SNR_EVERY == 0,
            lambda: mean_snr(loss, state.params, batch),
            lambda: jnp.float32(jnp.nan),
        )
        trained = descend(optimizer, Trained(state.params, state.optimizer), gradient, key)
        updates = state.rest.updates + 1
        copies = updates % target_every == 0
        target = jax.tree.map(partial(jnp.where, copies), trained.params, target)
        return (trained, updates, target), {"loss": cost, "gradient_snr": snr}

    def learn(state: AgentState, experience: Experience) -> tuple[AgentState, Metrics]:
        replay = extend(state.rest.replay, experience)
        unchanged = Trained(state.params, state.optimizer), state.rest.updates, state.rest.target
        nothing = {"loss": jnp.float32(jnp.nan), "gradient_snr": jnp.float32(jnp.nan)}
        # the branches read the replay and do not return it: it is not copied
        (trained, updates, target), metrics = jax.lax.cond(
            state.steps >= random_steps,
            lambda: update(state, replay),
            lambda: (unchanged, nothing),
        )
        steps = state.steps + len(experience.reward)
        rest = DqnRest(updates, target, replay)
        metrics |= {"finite": all_finite(trained.params)}
        after = AgentState(state.key, steps, trained.params, trained.optimizer, rest)
        return after, metrics

    # compiled, so that no two leaves of a state share a buffer, which could not be donated
    return Agent(jax.jit(init), act, learn, policy._replace(init=network.init))


def td_loss(
    values: Callable[[Params, Float[Array, "b o"]], Float[Array, "b a"]],
    params: Params,
    target: Params,
    batch: Experience,
    *,
    discount: float,
) -> Float[Array, ""]:
    """Computes mean (r + γ (1 - terminated) max_a Q'(s', a) - Q(s, a))², in squared rewards.

    Args:
        values: (params, observations) -> Q of every choice.
        params: params of Q, which the loss is a function of.
        target: params of Q', the target network.
        batch: transitions; the highest score of an action is the choice.
        discount: γ.
    """
    future = values(target, batch.next_observation).max(1)
    wanted = batch.reward + discount * jnp.where(batch.terminated, 0, future)
    chosen = batch.action.argmax(1)[:, None]
    predicted = jnp.take_along_axis(values(params, batch.observation), chosen, axis=1)[:, 0]
    return jnp.mean((jax.lax.stop_gradient(wanted) - predicted) ** 2)
