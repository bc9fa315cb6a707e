"""The networks of PPO and what each of them minimizes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.rl.agent import Experience
from nesht_jax.rl.gae import advantages_of
from nesht_jax.rl.mlp import make_mlp, uniform
from nesht_jax.types import Moments, Params, Policy, Task

FIRST_STD = 0.35
"""Standard deviation of actions at first, in units of the action."""


class Networks(NamedTuple):
    """The pure functions of an actor and of a critic.

    The actor's distribution is normal around what the policy plays, clipped by the simulator alone;
    its standard deviations softplus(``params["std"]["bias"]``) depend on no observation. Of choices
    it is the softmax of the policy's scores.

    Attributes:
        policy: the mean of the actor's distribution, or scores; params of the actor.
        init_critic: key -> params of the critic.
        draw: (actor, moments, observation [o], key) -> action [a].
        log_density: (actor, moments, observation [o], action [a]) -> log π(a|s).
        value: (critic, moments, observation [o]) -> V(s).
    """

    policy: Policy
    init_critic: Callable[[Key[Array, ""]], Params]
    draw: Callable[..., Float[Array, " a"]]
    log_density: Callable[..., Float[Array, ""]]
    value: Callable[[Params, Moments, Float[Array, " o"]], Float[Array, ""]]


def make_networks(
    task: Task, hidden: tuple[int, ...], *, observation_clip: float = 5.0
) -> Networks:
    """Makes an actor of tanh and a critic of relu, both seeing observations by running moments.

    Kernels begin orthogonal; the last of the actor normal of variance 0.1/in, truncated, and that
    of the critic uniform on ± 0.03. Normalized features are clipped to ± ``observation_clip``.
    """
    normalize = by_running_moments(observation_clip)
    policy = make_policy(task, hidden=hidden, activation=jnp.tanh, normalize=normalize)
    orthogonal = jax.nn.initializers.orthogonal()
    actor = make_mlp(
        task.num_features,
        (*hidden, task.num_actions),
        activation=jnp.tanh,
        hidden_kernel=orthogonal,
        last_kernel=jax.nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal"),
    )
    critic = make_mlp(
        task.num_features,
        (*hidden, 1),
        activation=jax.nn.relu,
        hidden_kernel=orthogonal,
        last_kernel=uniform(0.03),
    )

    def init(key: Key[Array, ""]) -> Params:
        params = actor.init(key)
        if task.discrete:
            return params
        bias = jnp.full(task.num_actions, np.log(np.expm1(FIRST_STD)), jnp.float32)
        return params | {"std": {"bias": bias}}

    def draw(
        params: Params, moments: Moments, observation: Float[Array, " o"], key: Key[Array, ""]
    ) -> Float[Array, " a"]:
        said = policy.apply(params, moments, observation)
        if task.discrete:
            chosen = jnp.argmax(said + jax.random.gumbel(key, said.shape, jnp.float32))
            return jax.nn.one_hot(chosen, task.num_actions, dtype=jnp.float32)
        return said + _std(params) * jax.random.normal(key, said.shape, jnp.float32)

    def log_density(
        params: Params,
        moments: Moments,
        observation: Float[Array, " o"],
        action: Float[Array, " a"],
    ) -> Float[Array, ""]:
        said = policy.apply(params, moments, observation)
        if task.discrete:
            return jax.nn.log_softmax(said)[jnp.argmax(action)]
        return jnp.sum(jax.scipy.stats.norm.logpdf(action, said, _std(params)))

    def value(
        params: Params, moments: Moments, observation: Float[Array, " o"]
    ) -> Float[Array, ""]:
        return critic.apply(params, normalize.apply(moments, observation))[0]

    return Networks(policy._replace(init=init), critic.init, draw, log_density, value)


def _std(params: Params) -> Float[Array, " a"]:
    return jax.nn.softplus(params["std"]["bias"])


class Batch(NamedTuple):
    """What a step taught: a row a step.

    Attributes:
        observation: what the agent saw.
        action: what it said.
        log_density: log π(a|s) of the policy that acted.
        advantage: estimate of how much better the action was than what the policy does.
        wanted: estimate of the value of the observation.
    """

    observation: Float[Array, "b o"]
    action: Float[Array, "b a"]
    log_density: Float[Array, " b"]
    advantage: Float[Array, " b"]
    wanted: Float[Array, " b"]


def evaluated(
    networks: Networks,
    rollout: Experience,
    *,
    actor: Params,
    critic: Params,
    moments: Moments,
    discount: float,
    trace: float,
) -> Batch:
    """Judges the steps of a rollout by the networks that they were done with.

    Args:
        networks: actor and critic.
        rollout: what was done, leading axes (steps, environments), which are joined.
        actor: params of the actor.
        critic: params of the critic.
        moments: running moments that both see by.
        discount: γ.
        trace: λ, see ``gae.advantages_of``.
    """
    value = jax.vmap(jax.vmap(networks.value, (None, None, 0)), (None, None, 0))
    density = jax.vmap(jax.vmap(networks.log_density, (None, None, 0, 0)), (None, None, 0, 0))
    values = value(critic, moments, rollout.observation)
    advantages = advantages_of(
        rollout.reward,
        values,
        value(critic, moments, rollout.next_observation),
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        discount=discount,
        trace=trace,
    )
    log_density = density(actor, moments, rollout.observation, rollout.action)
    wanted = advantages + values
    steps = Batch(rollout.observation, rollout.action, log_density, advantages, wanted)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def standardized(batch: Batch) -> Batch:
    """Gives the advantages of a batch mean 0 and variance 1."""
    centered = batch.advantage - batch.advantage.mean()
    return batch._replace(advantage=centered / jnp.sqrt(batch.advantage.var() + 1e-8))


def actor_loss(
    networks: Networks, params: Params, moments: Moments, batch: Batch, *, clip: float
) -> Float[Array, ""]:
    """Computes -mean min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = π(a|s) / π_old(a|s).

    Advantages A are to be ``standardized``. Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    log_density = jax.vmap(networks.log_density, (None, None, 0, 0))(
        params, moments, batch.observation, batch.action
    )
    ratio = jnp.exp(log_density - batch.log_density)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return -jnp.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()


def critic_loss(
    networks: Networks, params: Params, moments: Moments, batch: Batch
) -> Float[Array, ""]:
    """Computes ½ mean (y - V(s))², y the value that is wanted, in squared rewards."""
    values = jax.vmap(networks.value, (None, None, 0))(params, moments, batch.observation)
    return jnp.mean((batch.wanted - values) ** 2) / 2
