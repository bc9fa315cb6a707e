"""PPO against rejax, and what it refuses."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState
from rejax import PPO
from rejax.algos.ppo import AdvantageMinibatch, Trajectory
from rejax.networks import DiscretePolicy, GaussianPolicy, VNetwork
from rl_helpers import KEY, Theirs, choice_task, compiled, jitted, row, task_of, transitions

from nesht_jax.rl.ppo import make_ppo
from nesht_jax.rl.ppo_losses import (
    Batch,
    actor_loss,
    critic_loss,
    make_networks,
    standardized,
)
from nesht_jax.types import Moments

HIDDEN = (16, 8)
RATE = 0.1
UNBOUNDED = task_of(3, [-np.inf] * 2, [np.inf] * 2)
CHOICES = choice_task(3, 2)


def agent_of(task=UNBOUNDED, **rules):
    optimizers = {f"{name}_optimizer": optax.sgd(RATE) for name in ("actor", "critic")}
    sizes = {"hidden": HIDDEN, "num_steps": 6, "batch_size": 6, "num_epochs": 1}
    return jitted(make_ppo(task, **(optimizers | sizes | {"normalize_rewards": False} | rules)))


@cache
def plain_agent(discrete):
    """Compiled once for all tests."""
    return agent_of(CHOICES if discrete else UNBOUNDED)


@cache
def theirs(discrete):
    parts = {"hidden_layer_sizes": HIDDEN, "activation": nn.tanh}
    actor = (
        DiscretePolicy(2, **parts) if discrete else GaussianPolicy(2, (-np.inf, np.inf), **parts)
    )
    critic = VNetwork(hidden_layer_sizes=HIDDEN, activation=nn.relu)
    rules = {"clip_eps": 0.2, "ent_coef": 0.0, "vf_coef": 1.0, "gae_lambda": 0.95, "gamma": 0.99}
    return PPO.create(env="CartPole-v1", **rules).replace(actor=actor, critic=critic)


def their_actor(params):
    hidden = {"Dense_0": params["layer0"], "Dense_1": params["layer1"]}
    if "std" not in params:
        return {"params": {"features": hidden, "action_logits": params["layer2"]}}
    log_std = jnp.log(jax.nn.softplus(params["std"]["bias"]))
    named = {"action_mean": params["layer2"], "action_log_std": log_std}
    return {"params": {"features": hidden, **named}}


def their_critic(params):
    return {"params": {name.replace("layer", "Dense_"): leaf for name, leaf in params.items()}}


def their_state(task, actor, critic):
    def trained(params):
        return TrainState.create(apply_fn=(), params=params, tx=optax.sgd(RATE))

    algorithm = theirs(task.discrete)
    return algorithm, Theirs(
        actor_ts=trained(their_actor(actor)), critic_ts=trained(their_critic(critic))
    )


def their_action(task, action):
    return action.argmax(-1) if task.discrete else action


def close(ours, expected):
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(check, ours, expected)


def in_their_steps(task, before, gradient):
    """The gradient as a step of theirs, whose own param is log σ: by the chain rule."""
    moved = jax.tree.map(lambda p, g: p - RATE * g, before, gradient)
    if task.discrete:
        return their_actor(moved)
    bias = before["std"]["bias"]
    slope = jax.nn.sigmoid(bias) / jax.nn.softplus(bias)
    after = their_actor(moved)
    log_std = jnp.log(jax.nn.softplus(bias)) - RATE * gradient["std"]["bias"] / slope
    after["params"]["action_log_std"] = log_std
    return after


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("task", [UNBOUNDED, CHOICES], ids=["normal", "choices"])
def test_gradients_are_those_of_rejax(task):
    """Far from the policy that acted, so that ratios are clipped."""
    networks, told = make_networks(task, HIDDEN), transitions(task, 32)
    actor, critic = networks.policy.init(KEY), networks.init_critic(KEY)
    moments, generator = Moments.empty(3), np.random.default_rng(0)
    advantage, wanted, drift = jnp.asarray(generator.normal(size=(3, 32)), jnp.float32)
    density = jax.vmap(networks.log_density, (None, None, 0, 0))
    old = density(actor, moments, told.observation, told.action) + 0.3 * drift
    batch = Batch(told.observation, told.action, old, advantage, wanted)
    algorithm, state = their_state(task, actor, critic)
    values = algorithm.critic.apply(state.critic_ts.params, told.observation)
    trajectories = Trajectory(
        told.observation, their_action(task, told.action), old, told.reward, values, told.terminated
    )
    minibatch = AdvantageMinibatch(trajectories, advantage, wanted)
    state = compiled(algorithm.update)(state, minibatch)
    loss = partial(actor_loss, networks, clip=0.2)
    gradient = jax.jit(jax.grad(loss))(actor, moments, standardized(batch))
    close(in_their_steps(task, actor, gradient), state.actor_ts.params)
    gradient = jax.jit(jax.grad(partial(critic_loss, networks)))(critic, moments, batch)
    moved = jax.tree.map(lambda p, g: p - RATE * g, critic, gradient)
    close(their_critic(moved), state.critic_ts.params)


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("task", [UNBOUNDED, CHOICES], ids=["normal", "choices"])
def test_learning_is_that_of_rejax(task):
    """Six steps of one environment, one epoch of one batch: no chance is left."""
    agent, told = plain_agent(task.discrete), transitions(task, 6)
    after = told.next_observation.at[:-1].set(told.observation[1:])
    told = told._replace(next_observation=after, truncated=jnp.zeros(6, bool))
    first = state = agent.init(KEY)
    for i in range(6):
        jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
        state, metrics = agent.learn(state, row(told, i))
        for name in ("actor_loss", "actor_gradient_snr", "critic_gradient_snr"):
            assert np.isnan(metrics[name]) == (i < 5)
    algorithm, their = their_state(task, first.params, first.rest.critic.params)
    values = algorithm.critic.apply(their.critic_ts.params, told.observation)
    density, _ = algorithm.actor.apply(
        their.actor_ts.params,
        told.observation,
        their_action(task, told.action),
        method="log_prob_entropy",
    )
    trajectories = Trajectory(
        told.observation,
        their_action(task, told.action),
        density,
        told.reward,
        values,
        told.terminated,
    )
    last = algorithm.critic.apply(their.critic_ts.params, after[-1:])[0]
    last = jnp.where(told.terminated[-1], 0, last)
    batch = AdvantageMinibatch(trajectories, *algorithm.calculate_gae(trajectories, last))
    their = compiled(algorithm.update)(their, batch)
    gradient = jax.tree.map(lambda old, new: (old - new) / RATE, first.params, state.params)
    close(in_their_steps(task, first.params, gradient), their.actor_ts.params)
    close(their_critic(state.rest.critic.params), their.critic_ts.params)


@pytest.mark.slow
def test_moments_are_those_of_all_observations():
    agent, told = plain_agent(False), transitions(UNBOUNDED, 12)
    state = agent.init(KEY)
    for i in range(12):
        state, _ = agent.learn(state, row(told, i))
    seen = np.asarray(told.observation)
    np.testing.assert_allclose(state.moments.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.moments.deviation / 12, seen.var(0), rtol=1e-4)
    rewards = np.asarray(told.reward)
    np.testing.assert_allclose(state.rest.rewards.deviation[0] / 12, rewards.var(), rtol=1e-4)


@pytest.mark.slow
def test_the_scale_of_rewards_does_not_matter_when_they_are_normalized():
    def learned(scale):
        told, state = transitions(UNBOUNDED, 6), agent.init(KEY)
        for i in range(6):
            state, _ = agent.learn(
                state, row(told, i)._replace(reward=scale * told.reward[i][None])
            )
        return state.rest.critic.params

    agent = agent_of(normalize_rewards=True)
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3)
    jax.tree.map(close, learned(1e2), learned(1e3))


@pytest.mark.parametrize("part", ["observation", "reward"])
def test_moments_leave_out_a_rollout_that_they_cannot_square(part):
    agent, told = agent_of(normalize_rewards=True), transitions(UNBOUNDED, 18)
    state, finite = agent.init(KEY), []
    for i in range(18):
        new = row(told, i)
        if i == 9:
            new = new._replace(**{part: jnp.full_like(getattr(new, part), 1e20)})
        state, metrics = agent.learn(state, new)
        finite.append(bool(metrics["finite"]))
    moments = state.moments if part == "observation" else state.rest.rewards
    sound = np.delete(np.asarray(getattr(told, part)), range(6, 12), axis=0)
    assert all(finite) and moments.number == 12
    np.testing.assert_allclose(np.ravel(moments.deviation) / 12, sound.var(0).ravel(), rtol=1e-4)


def test_a_first_rollout_of_huge_rewards_leaves_params_finite():
    agent, told = agent_of(normalize_rewards=True), transitions(UNBOUNDED, 6)
    state = agent.init(KEY)
    for i in range(6):
        huge = row(told, i)._replace(reward=jnp.full_like(row(told, i).reward, -1e20))
        state, metrics = agent.learn(state, huge)
    assert metrics["finite"] and all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_actions_are_drawn_around_what_the_policy_plays():
    task = task_of(3, (-2.0,), (4.0,))
    agent = agent_of(task)
    state, seen = agent.init(KEY), jnp.ones(3)
    actions = np.asarray(agent.act(state, KEY, jnp.broadcast_to(seen, (4000, 3))))
    mean = agent.policy.apply(state.params, state.moments, seen)
    assert -2 < mean < 4
    np.testing.assert_allclose(actions.mean(), mean[0], atol=4 * 0.35 / np.sqrt(4000))
    np.testing.assert_allclose(actions.std(), 0.35, rtol=0.05)


def test_choices_are_drawn_from_the_softmax():
    agent = plain_agent(True)
    state, seen = agent.init(KEY), jnp.ones(3)
    state.params["layer2"]["bias"] = jnp.array([0.0, 1.0])
    actions = np.asarray(agent.act(state, KEY, jnp.broadcast_to(seen, (4000, 3))))
    expected = jax.nn.softmax(agent.policy.apply(state.params, state.moments, seen))
    np.testing.assert_allclose(actions.mean(0), expected, atol=0.03)
    assert (np.sort(actions) == [0, 1]).all()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"batch_size": 4}, r"must be a multiple of batch_size, 4, got 1 \* 6"),
        ({"clip": 1.2}, r"clip must be in \[0, 1\], got 1.2"),
        ({"trace": -0.5}, r"trace must be in \[0, 1\], got -0.5"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(rules, said):
    with pytest.raises(ValueError, match=said):
        agent_of(**rules)


def test_another_number_of_environments_is_refused():
    agent = plain_agent(False)
    with pytest.raises(ValueError, match="num_envs must be the number of environments, 2, got 1"):
        agent.learn(agent.init(KEY), transitions(UNBOUNDED, 2))
