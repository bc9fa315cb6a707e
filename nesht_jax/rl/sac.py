"""SAC: soft actor-critic, for tasks whose actions lie between bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from nesht_jax.rl.agent import Agent, AgentState, Experience, Metrics
from nesht_jax.rl.replay import Replay, empty_experience, extend, make_replay, sample
from nesht_jax.rl.sac_losses import (
    actor_loss,
    critic_loss,
    make_networks,
    soft_targets,
    temperature_loss,
)
from nesht_jax.rl.updates import (
    FirstWeights,
    Trained,
    all_finite,
    as_drawn,
    begin,
    check_replay,
    check_shares,
    descend,
    masked,
    moved_toward,
)
from nesht_jax.types import Params, Task


class SacRest(NamedTuple):
    """What SAC remembers beside its actor.

    Attributes:
        critics: both critics, params stacked on a leading axis; the masks of sparse ones are in
            the state of their optimizer.
        targets: params of the target critics, likewise stacked.
        temperature: log α, a scalar.
        replay: transitions to learn from; None in what an update returns, which leaves it alone.
    """

    critics: Trained
    targets: Params
    temperature: Trained
    replay: Replay | None


def make_sac(
    task: Task,
    *,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    temperature_optimizer: optax.GradientTransformation,
    hidden: tuple[int, ...] = (256, 256),
    discount: float = 0.99,
    batch_size: int = 256,
    replay_size: int = 1_000_000,
    random_steps: int = 1_000,
    target_share: float = 0.005,
    reward_scale: float = 0.1,
    first_weights: FirstWeights = as_drawn,
) -> Agent:
    """Makes SAC; the policy plays the squashed mean of the actor's distribution.

    One update a step of all environments: critics by ``critic_loss``, actor by ``actor_loss``,
    temperature by ``temperature_loss``, in this order, each with what those before it have just
    become; then Q' ← (1 - τ) Q' + τ Q. Nothing follows a step that terminated; what follows one
    that was truncated counts. The entropy is held at -a/2 nats, a the number of actions.

    Defaults are those published for sparse training, with Adam of learning rate 3e-4 three times.
    As there, kernels begin Glorot-uniform, one last layer of the actor gives mean and log σ of all
    components, and log σ has no bounds.

    Args:
        task: task whose actions have finite bounds.
        actor_optimizer: any optax chain. ``update`` is given ``key=``; where its state holds a
            mask, the weights that it says are dead are 0 from the start.
        critic_optimizer: an optax chain for params with a leading axis of two critics. One that
            looks at a whole network, as sparse ones do, must be vmapped over that axis by the
            caller, ``init`` and ``update``, or the critics compete. Masks hold in targets too.
        temperature_optimizer: any optax chain, for log α, which begins at 0.
        hidden: widths of the hidden layers of actor and critics, of relu.
        discount: γ in [0, 1].
        batch_size: transitions of an update, drawn with replacement.
        replay_size: transitions kept.
        random_steps: environment steps, of all environments together, that act uniformly and learn
            nothing.
        target_share: τ in [0, 1].
        reward_scale: factor of rewards.
        first_weights: what is made of the first weights of sparse params, see ``FirstWeights``.

    Raises:
        ValueError: if actions are choices, a bound is infinite, or a number is out of its range.

    Reference: Haarnoja et al. 2018 (arXiv 1812.05905), algorithm 1; Graesser et al. 2022
    (arXiv 2206.10369) and its code, ``rigl/rl/tfagents``.
    """
    networks = make_networks(task, hidden)
    check_shares(discount=discount, target_share=target_share)
    check_replay(batch_size=batch_size, replay_size=replay_size, random_steps=random_steps)

    def init(key: Key[Array, ""]) -> AgentState:
        own_key, actor_key, critics_key, *first_keys = jax.random.split(key, 5)
        actor = begin(actor_optimizer, networks.init_actor(actor_key), first_weights, first_keys[0])
        critics = begin(
            critic_optimizer,
            networks.init_critics(critics_key),
            jax.vmap(first_weights),
            jax.random.split(first_keys[1], 2),
        )
        rest = SacRest(
            critics=critics,
            targets=critics.params,
            temperature=begin(temperature_optimizer, jnp.zeros((), jnp.float32)),
            replay=make_replay(empty_experience(task, replay_size)),
        )
        zero = jnp.zeros((), jnp.int32)
        return AgentState(own_key, zero, actor.params, actor.optimizer, rest)

    def act(
        state: AgentState, key: Key[Array, ""], observations: Float[Array, "e o"]
    ) -> Float[Array, "e a"]:
        return jax.lax.cond(
            state.steps < random_steps,
            lambda: networks.random_actions(key, len(observations)),
            lambda: networks.draw(state.params, observations, key)[0],
        )

    def update(state: AgentState, replay: Replay) -> tuple[Trained, SacRest, Metrics]:
        actor, rest = Trained(state.params, state.optimizer), state.rest
        keys = jax.random.split(jax.random.fold_in(state.key, state.steps), 7)
        batch = sample(replay, keys[0], batch_size)
        alpha = jnp.exp(rest.temperature.params)

        wanted = soft_targets(
            networks,
            keys[1],
            actor=actor.params,
            targets=rest.targets,
            batch=batch._replace(reward=reward_scale * batch.reward),
            temperature=alpha,
            discount=discount,
        )
        critic_cost, gradient = jax.value_and_grad(critic_loss, 1)(
            networks, rest.critics.params, batch, wanted
        )
        critics = descend(critic_optimizer, rest.critics, gradient, keys[2])

        actor_cost, gradient = jax.value_and_grad(actor_loss, 2)(
            networks, keys[3], actor.params, critics.params, batch.observation, temperature=alpha
        )
        actor = descend(actor_optimizer, actor, gradient, keys[4])

        _, log_density = networks.draw(actor.params, batch.observation, keys[5])
        gradient = jax.grad(temperature_loss)(
            rest.temperature.params, log_density, target_entropy=-task.num_actions / 2
        )
        temperature = descend(temperature_optimizer, rest.temperature, gradient, keys[6])

        targets = moved_toward(rest.targets, critics.params, target_share)
        metrics = {
            "critic_loss": critic_cost,
            "actor_loss": actor_cost,
            "entropy": -log_density.mean(),
            "temperature": jnp.exp(temperature.params),
        }
        rest = SacRest(critics, masked(targets, critics.optimizer), temperature, None)
        return actor, rest, metrics

    def leave(state: AgentState) -> tuple[Trained, SacRest, Metrics]:
        names = "critic_loss", "actor_loss", "entropy", "temperature"
        metrics = {name: jnp.float32(jnp.nan) for name in names}
        return Trained(state.params, state.optimizer), state.rest._replace(replay=None), metrics

    def learn(state: AgentState, experience: Experience) -> tuple[AgentState, Metrics]:
        replay = extend(state.rest.replay, experience)
        # the branches read the replay and do not return it: it is not copied
        actor, rest, metrics = jax.lax.cond(
            state.steps >= random_steps, lambda: update(state, replay), lambda: leave(state)
        )
        finite = all_finite(actor.params, rest.critics.params, rest.temperature.params)
        steps = state.steps + len(experience.reward)
        rest = rest._replace(replay=replay)
        after = AgentState(state.key, steps, actor.params, actor.optimizer, rest)
        return after, metrics | {"finite": finite}

    # compiled, so that no two leaves of a state share a buffer, which could not be donated
    return Agent(jax.jit(init), act, learn, networks.policy)
