"""PPO: proximal policy optimization, for actions of any kind."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from nesht_jax.rl.agent import Agent, AgentState, Experience, Metrics
from nesht_jax.rl.ppo_losses import (
    Batch,
    actor_loss,
    critic_loss,
    evaluated,
    make_networks,
    standardized,
)
from nesht_jax.rl.replay import empty_experience
from nesht_jax.rl.updates import (
    FirstWeights,
    Trained,
    all_finite,
    as_drawn,
    begin,
    check_shares,
    descend,
    mean_snr,
)
from nesht_jax.sparse.top_k import checked_count
from nesht_jax.types import Moments, Params, Task

METRICS = "actor_loss", "critic_loss", "actor_gradient_snr", "critic_gradient_snr"

Loss = Callable[[Params, Batch], Float[Array, ""]]

LARGEST_REWARD = 10
"""Largest magnitude of a normalized reward."""


class PpoRest(NamedTuple):
    """What PPO remembers beside its actor.

    Attributes:
        critic: the critic; the mask of a sparse one is in the state of its optimizer.
        rewards: running moments of rewards, of one feature.
        rollout: the newest steps, leading axes (steps, environments), written over in turn.
    """

    critic: Trained
    rewards: Moments
    rollout: Experience


def make_ppo(
    task: Task,
    *,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    hidden: tuple[int, ...] = (64, 64),
    discount: float = 0.99,
    trace: float = 0.95,
    clip: float = 0.2,
    num_envs: int = 1,
    num_steps: int = 2_048,
    batch_size: int = 64,
    num_epochs: int = 10,
    normalize_rewards: bool = True,
    observation_clip: float = 5.0,
    first_weights: FirstWeights = as_drawn,
) -> Agent:
    """Makes PPO; the policy plays the mean of the actor's distribution, or the likeliest choice.

    After every ``num_steps`` steps of all environments, epochs over what they brought, shuffled and
    cut to batches: the actor by ``actor_loss``, the critic by ``critic_loss``, with the advantages
    of ``gae.advantages_of``. Nothing follows a step that terminated; what follows one that was
    truncated counts.

    Defaults are those published for sparse training, with ``optax.clip_by_global_norm(0.5)`` before
    Adam of epsilon 1e-5 and a learning rate that falls from 3e-4 linearly to 0; there one norm
    spans actor and critic. The initial values of ``ppo_losses.make_networks`` are theirs too.

    Args:
        task: task with actions of any kind.
        actor_optimizer: any optax chain. ``update`` is given ``key=``; where its state holds a
            mask, the weights that it says are dead are 0 from the start. It trains the standard
            deviations too, ``std/bias`` in params.
        critic_optimizer: any optax chain, for the critic, whose mask is treated alike.
        hidden: widths of the hidden layers of actor and critic.
        discount: γ in [0, 1].
        trace: λ in [0, 1].
        clip: ε in [0, 1], how far from 1 the ratio of densities is rewarded.
        num_envs: environments that act together.
        num_steps: steps of each environment between updates.
        batch_size: steps in an update; num_envs · num_steps is a multiple of it.
        num_epochs: times that each step is learned from.
        normalize_rewards: whether rewards are divided by √(variance + 1e-3) of all so far, and
            clipped to ± 10. It suits no task that always pays the same.
        observation_clip: bound of normalized features, in their standard deviations.
        first_weights: what is made of the first weights of sparse params, see ``FirstWeights``.

    Raises:
        ValueError: if a number is out of its range; from ``learn``, if there are more or fewer
            environments than ``num_envs``.

    Reference: Schulman et al. 2017 (arXiv 1707.06347), algorithm 1; Graesser et al. 2022
    (arXiv 2206.10369) and its code, ``rigl/rl/tfagents``.
    """
    check_shares(discount=discount, trace=trace, clip=clip)
    counts = {"num_envs": num_envs, "num_steps": num_steps, "num_epochs": num_epochs}
    for name, count in ({"batch_size": batch_size} | counts).items():
        checked_count(name, count)
    if num_envs * num_steps % batch_size:
        raise ValueError(
            f"num_envs * num_steps must be a multiple of batch_size, {batch_size}, got "
            f"{num_envs} * {num_steps}"
        )
    networks = make_networks(task, hidden, observation_clip=observation_clip)

    def init(key: Key[Array, ""]) -> AgentState:
        own_key, actor_key, critic_key, *first_keys = jax.random.split(key, 5)
        actor = begin(
            actor_optimizer, networks.policy.init(actor_key), first_weights, first_keys[0]
        )
        critic = begin(
            critic_optimizer, networks.init_critic(critic_key), first_weights, first_keys[1]
        )
        rest = PpoRest(
            critic=critic,
            rewards=Moments.empty(1),
            rollout=empty_experience(task, num_steps, num_envs),
        )
        moments = Moments.empty(task.num_features)
        zero = jnp.zeros((), jnp.int32)
        return AgentState(own_key, zero, actor.params, actor.optimizer, rest, moments)

    def act(
        state: AgentState, key: Key[Array, ""], observations: Float[Array, "e o"]
    ) -> Float[Array, "e a"]:
        keys = jax.random.split(key, len(observations))
        draw = jax.vmap(networks.draw, (None, None, 0, 0))
        return draw(state.params, state.moments, observations, keys)

    def losses(moments: Moments) -> tuple[Loss, Loss]:
        def of_actor(params: Params, batch: Batch) -> Float[Array, ""]:
            return actor_loss(networks, params, moments, batch, clip=clip)

        def of_critic(params: Params, batch: Batch) -> Float[Array, ""]:
            return critic_loss(networks, params, moments, batch)

        return of_actor, of_critic

    def update_once(
        carry: tuple[Trained, Trained], told: tuple[Batch, Key[Array, ""]], moments: Moments
    ) -> tuple[tuple[Trained, Trained], Metrics]:
        (actor, critic), (batch, key) = carry, told
        actor_key, critic_key = jax.random.split(key)
        of_actor, of_critic = losses(moments)
        actor_cost, gradient = jax.value_and_grad(of_actor)(actor.params, standardized(batch))
        actor = descend(actor_optimizer, actor, gradient, actor_key)
        critic_cost, gradient = jax.value_and_grad(of_critic)(critic.params, batch)
        critic = descend(critic_optimizer, critic, gradient, critic_key)
        return (actor, critic), {"actor_loss": actor_cost, "critic_loss": critic_cost}

    def update(state: AgentState, rollout: Experience) -> tuple[Any, Metrics]:
        rest, moments = state.rest, state.moments
        assert moments is not None  # init makes them
        rewards, _ = rest.rewards.merge_finite(_moments_of(rollout.reward[..., None]))
        if normalize_rewards:
            rollout = rollout._replace(reward=_normalized(rollout.reward, rewards))
        steps = evaluated(
            networks,
            rollout,
            actor=state.params,
            critic=rest.critic.params,
            moments=moments,
            discount=discount,
            trace=trace,
        )

        def epoch(carry: tuple[Trained, Trained], key: Key[Array, ""]) -> tuple[Any, Metrics]:
            shuffle_key, key = jax.random.split(key)
            places = jax.random.permutation(shuffle_key, num_envs * num_steps)
            places = places.reshape(-1, batch_size)
            batches = jax.tree.map(lambda x: x[places], steps)
            keys = jax.random.split(key, len(places))
            return jax.lax.scan(partial(update_once, moments=moments), carry, (batches, keys))

        carry = Trained(state.params, state.optimizer), rest.critic
        keys = jax.random.split(jax.random.fold_in(state.key, state.steps), num_epochs)
        (actor, critic), metrics = jax.lax.scan(epoch, carry, keys)
        of_actor, of_critic = losses(moments)
        first = jax.tree.map(lambda x: x[:batch_size], steps)
        snr = {
            "actor_gradient_snr": mean_snr(of_actor, state.params, standardized(first)),
            "critic_gradient_snr": mean_snr(of_critic, rest.critic.params, first),
        }
        # after the updates, so that the first ratio of densities is 1
        merged, _ = moments.merge_finite(_moments_of(rollout.observation))
        return (actor, critic, rewards, merged), jax.tree.map(jnp.mean, metrics) | snr

    def learn(state: AgentState, experience: Experience) -> tuple[AgentState, Metrics]:
        if len(experience.reward) != num_envs:
            raise ValueError(
                f"num_envs must be the number of environments, {len(experience.reward)}, got "
                f"{num_envs}"
            )
        place = state.steps // num_envs % num_steps
        rest = state.rest
        rollout = jax.tree.map(lambda kept, new: kept.at[place].set(new), rest.rollout, experience)
        unchanged = Trained(state.params, state.optimizer), rest.critic, rest.rewards, state.moments
        nothing = dict.fromkeys(METRICS, jnp.float32(jnp.nan))
        (actor, critic, rewards, moments), metrics = jax.lax.cond(
            place == num_steps - 1, lambda: update(state, rollout), lambda: (unchanged, nothing)
        )
        rest = PpoRest(critic, rewards, rollout)
        steps = state.steps + num_envs
        after = AgentState(state.key, steps, actor.params, actor.optimizer, rest, moments)
        return after, metrics | {"finite": all_finite(actor.params, critic.params)}

    # compiled, so that no two leaves of a state share a buffer, which could not be donated
    return Agent(jax.jit(init), act, learn, networks.policy)


def _moments_of(numbers: Float[Array, "t e o"]) -> Moments:
    rows = numbers.reshape(-1, numbers.shape[-1])
    return Moments.of_batch(rows, jnp.ones(len(rows), bool))


def _normalized(rewards: Float[Array, "t e"], moments: Moments) -> Float[Array, "t e"]:
    """Rewards over their standard deviation, clipped; the mean is left, whose sign counts."""
    variance = moments.deviation[0] / jnp.maximum(moments.number, 1)
    scaled = rewards / jnp.sqrt(variance + 1e-3)
    return jnp.clip(scaled, -LARGEST_REWARD, LARGEST_REWARD)
