"""The networks of SAC and what each of them minimizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nesht_jax.rl.agent import Experience
from nesht_jax.rl.mlp import make_mlp
from nesht_jax.rl.squashed import Squashed
from nesht_jax.types import Moments, Params, Policy, Task


class Networks(NamedTuple):
    """The pure functions of an actor and of two critics, whose params are stacked.

    Attributes:
        policy: the actor's mode as a policy.
        init_actor: key -> params of the actor.
        init_critics: key -> params of both critics, stacked on a leading axis.
        draw: (actor, observations [b, o], key) -> actions [b, a], log π of them [b].
        random_actions: (key, b) -> actions [b, a], uniform between the bounds.
        values: (critics, observations [b, o], actions [b, a]) -> Q of both critics [2, b].
    """

    policy: Policy
    init_actor: Callable[[Key[Array, ""]], Params]
    init_critics: Callable[[Key[Array, ""]], Params]
    draw: Callable[..., Any]
    random_actions: Callable[[Key[Array, ""], int], Float[Array, "b a"]]
    values: Callable[..., Float[Array, "2 b"]]


def make_networks(task: Task, hidden: tuple[int, ...]) -> Networks:
    """Makes actor and critics of relu, with Glorot-uniform kernels and biases of 0.

    Raises:
        ValueError: if actions of the task are choices, or a bound of theirs is not finite.
    """
    squashed = Squashed.of_task(task)
    num_features, num_actions = task.num_features, task.num_actions
    glorot = jax.nn.initializers.glorot_uniform()
    rules = {"activation": jax.nn.relu, "hidden_kernel": glorot, "last_kernel": glorot}
    actor = make_mlp(num_features, (*hidden, 2 * num_actions), **rules)
    critic = make_mlp(num_features + num_actions, (*hidden, 1), **rules)

    def apply(
        params: Params, moments: Moments | None, observation: Float[Array, " o"]
    ) -> Float[Array, " a"]:
        del moments
        return squashed.mode(actor.apply(params, observation))

    def draw(
        params: Params, observations: Float[Array, "b o"], key: Key[Array, ""]
    ) -> tuple[Float[Array, "b a"], Float[Array, " b"]]:
        normals = jax.random.normal(key, (len(observations), num_actions), jnp.float32)
        outputs = jax.vmap(actor.apply, (None, 0))(params, observations)
        return jax.vmap(squashed.sample)(outputs, normals)

    def values(
        params: Params, observations: Float[Array, "b o"], actions: Float[Array, "b a"]
    ) -> Float[Array, "2 b"]:
        inputs = jnp.concatenate([observations, actions], axis=1)
        return jax.vmap(jax.vmap(critic.apply, (None, 0)), (0, None))(params, inputs)[..., 0]

    return Networks(
        policy=Policy(actor.init, apply, layers=actor.layers),
        init_actor=actor.init,
        init_critics=lambda key: jax.vmap(critic.init)(jax.random.split(key)),
        draw=draw,
        random_actions=lambda key, b: jax.vmap(squashed.uniform)(jax.random.split(key, b)),
        values=values,
    )


def soft_targets(
    networks: Networks,
    key: Key[Array, ""],
    *,
    actor: Params,
    targets: Params,
    batch: Experience,
    temperature: Float[Array, ""],
    discount: float,
) -> Float[Array, " b"]:
    """Computes r + γ (1 - terminated) (min_j Q'_j(s', a') - α log π(a'|s')), a' ~ π(·|s').

    Args:
        networks: actor and critics.
        key: key that a' is drawn with, consumed whole.
        actor: params of π.
        targets: params of both target critics Q'.
        batch: transitions; rewards are taken as they are.
        temperature: α.
        discount: γ.
    """
    actions, log_density = networks.draw(actor, batch.next_observation, key)
    lowest = networks.values(targets, batch.next_observation, actions).min(0)
    future = lowest - temperature * log_density
    return batch.reward + discount * jnp.where(batch.terminated, 0, future)


def critic_loss(
    networks: Networks, critics: Params, batch: Experience, wanted: Float[Array, " b"]
) -> Float[Array, ""]:
    """Computes ½ Σ_j mean (y - Q_j(s, a))², y what is wanted, in squared scaled rewards."""
    errors = wanted[None] - networks.values(critics, batch.observation, batch.action)
    return jnp.mean(jnp.sum(errors**2, axis=0)) / 2


def actor_loss(
    networks: Networks,
    key: Key[Array, ""],
    actor: Params,
    critics: Params,
    observations: Float[Array, "b o"],
    *,
    temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """Computes mean (α log π(a|s) - min_j Q_j(s, a)), a ~ π(·|s) drawn with the key."""
    actions, log_density = networks.draw(actor, observations, key)
    lowest = networks.values(critics, observations, actions).min(0)
    return jnp.mean(temperature * log_density - lowest)


def temperature_loss(
    log_temperature: Float[Array, ""], log_density: Float[Array, " b"], *, target_entropy: float
) -> Float[Array, ""]:
    """Computes log α · mean (-log π - H̄), H̄ the wanted entropy: α grows where there is less.

    The published code has log α where Haarnoja et al. 2018, equation 18, has α.
    """
    return log_temperature * jnp.mean(-log_density - target_entropy)
