"""SAC against rejax and SciPy, and what it refuses."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.core import FrozenDict
from flax.training.train_state import TrainState
from rejax import SAC
from rejax.buffers import Minibatch
from rejax.networks import QNetwork, SquashedGaussianPolicy
from rl_helpers import KEY, Theirs, choice_task, compiled, jitted, row, task_of, transitions
from scipy import integrate

from nesht_jax.rl.sac import make_sac
from nesht_jax.rl.sac_losses import temperature_loss
from nesht_jax.rl.squashed import Squashed

TASK = task_of(3, (-1.0, -1.0), (1.0, 1.0))
HIDDEN = (16, 8)
RATE = 0.1


def agent_of(task=TASK, **rules):
    names = "actor_optimizer", "critic_optimizer", "temperature_optimizer"
    sizes = {"hidden": HIDDEN, "random_steps": 0, "replay_size": 1, "batch_size": 1}
    return jitted(make_sac(task, **({name: optax.sgd(RATE) for name in names} | sizes | rules)))


# ---------------------------------------------------------------------------------- against rejax


class HalfEntropy(SAC):
    """Theirs holds the entropy at -a."""

    @property
    def target_entropy(self):
        return -1.0


@cache
def theirs():
    parts = {"hidden_layer_sizes": HIDDEN, "activation": nn.relu}
    actor = SquashedGaussianPolicy(2, (-1.0, 1.0), log_std_range=(-50, 50), **parts)
    algorithm = HalfEntropy.create(env="Pendulum-v1", gamma=0.99)
    return algorithm.replace(actor=actor, critic=QNetwork(**parts))


def their_actor(params):
    """One last layer of ours is two of theirs."""
    last = params["layer2"]
    halves = [jax.tree.map(lambda x, i=i: jnp.split(x, 2, -1)[i], last) for i in range(2)]
    hidden = {"Dense_0": params["layer0"], "Dense_1": params["layer1"]}
    return {"params": {"features": hidden, "action_mean": halves[0], "action_log_std": halves[1]}}


def their_critics(params):
    return {"params": {name.replace("layer", "Dense_"): leaf for name, leaf in params.items()}}


def their_state(ours):
    algorithm = theirs()

    def trained(params):
        return TrainState.create(apply_fn=(), params=params, tx=optax.sgd(RATE))

    log_alpha = FrozenDict({"log_alpha": ours.rest.temperature.params})
    return compiled(partial(their_update, algorithm)), Theirs(
        rng=KEY,
        actor_ts=trained(their_actor(ours.params)),
        critic_ts=trained(their_critics(ours.rest.critics.params)),
        critic_target_params=their_critics(ours.rest.targets),
        alpha_ts=trained(log_alpha),
    )


def their_update(algorithm, state, batch):
    """In the order of TF-Agents: critics, actor, temperature; then the targets."""
    alpha = jnp.exp(state.alpha_ts.params["log_alpha"])
    state = algorithm.update_critic(state, batch)
    state, _ = algorithm.update_actor(state, batch)
    _, log_density = algorithm.actor.apply(
        state.actor_ts.params, batch.obs, KEY, method="action_log_prob"
    )
    # their loss has α where ours has log α
    scaled = TrainState.create(
        apply_fn=(), params=state.alpha_ts.params, tx=optax.sgd(RATE / alpha)
    )
    alpha_ts = algorithm.update_alpha(state.replace(alpha_ts=scaled), log_density).alpha_ts
    targets = algorithm.replace(polyak=0.995).maybe_update_target_params(
        state.critic_ts.params, state.critic_target_params, 1, 0
    )
    return state.replace(alpha_ts=alpha_ts, critic_target_params=targets)


@pytest.mark.slow
@pytest.mark.simulator
def test_learning_is_that_of_rejax_update_by_update(monkeypatch):
    """Both draw the same numbers; a replay of one transition leaves no choice of batches."""
    noise = jax.random.normal(KEY, (2,))

    def same(key, shape=(), dtype=jnp.float32):
        return jnp.broadcast_to(noise, shape)

    monkeypatch.setattr(jax.random, "normal", same)
    agent, told = agent_of(), transitions(TASK, 5)
    ours = agent.init(KEY)
    update, state = their_state(ours)
    for i in range(5):
        ours, metrics = agent.learn(ours, row(told, i))
        one = row(told, i)
        batch = Minibatch(
            one.observation, one.action, 0.1 * one.reward, one.terminated, one.next_observation
        )
        state = update(state, batch)
    assert bool(metrics["finite"])
    expected = (
        state.actor_ts.params,
        state.critic_ts.params,
        state.critic_target_params,
        state.alpha_ts.params["log_alpha"],
    )
    got = (
        their_actor(ours.params),
        their_critics(ours.rest.critics.params),
        their_critics(ours.rest.targets),
        ours.rest.temperature.params,
    )
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, got, expected)
    assert abs(float(ours.rest.temperature.params)) > 0.05


# ------------------------------------------------------------------------------- the distribution


LOW, HIGH = np.float32([-2.0, 0.0]), np.float32([2.0, 0.5])


@pytest.mark.parametrize(("mean", "log_std"), [(0.3, -0.5), (-1.0, 0.4)])
def test_densities_are_those_of_the_actions(mean, log_std):
    """E f(action) by the density, integrated over the bounds, is E f of what is drawn."""
    squashed = Squashed(LOW[:1], HIGH[:1])
    outputs, grid = jnp.array([mean, log_std]), np.linspace(-1.9999, 1.9999, 40_001)
    normals = (np.arctanh(grid / 2) - mean) / np.exp(log_std)
    sample = jax.jit(jax.vmap(squashed.sample, (None, 0)))
    actions, log_densities = sample(outputs, jnp.float32(normals)[:, None])
    np.testing.assert_allclose(actions[:, 0], grid, rtol=1e-4, atol=1e-5)
    densities = np.exp(np.float64(log_densities))
    np.testing.assert_allclose(integrate.trapezoid(densities, grid), 1, atol=5e-3)
    normals = jax.random.normal(KEY, (20_000, 1))
    drawn, _ = sample(outputs, normals)
    expected = integrate.trapezoid(densities * grid**2, grid)
    np.testing.assert_allclose((drawn**2).mean(), expected, atol=0.05)


def test_densities_are_finite_far_out():
    squashed = Squashed(LOW, HIGH)
    outputs = jnp.array([40.0, -40.0, 0.0, 0.0])
    gradient = jax.grad(lambda x: squashed.sample(x, jnp.ones(2))[1])(outputs)
    assert np.isfinite(squashed.sample(outputs, jnp.ones(2))[1]) and np.isfinite(gradient).all()


def test_actions_reach_and_keep_their_bounds():
    squashed = Squashed(LOW, HIGH)
    for far, bound in [(-50.0, LOW), (50.0, HIGH)]:
        mode = squashed.mode(jnp.array([far, far, 0.0, 0.0]))
        np.testing.assert_allclose(mode, bound, atol=1e-6)
    np.testing.assert_allclose(squashed.mode(jnp.zeros(4)), (LOW + HIGH) / 2, atol=1e-6)
    drawn = np.asarray(jax.vmap(squashed.uniform)(jax.random.split(KEY, 2000)))
    assert ((drawn >= LOW) & (drawn <= HIGH)).all()
    np.testing.assert_allclose(drawn.mean(0), (LOW + HIGH) / 2, atol=0.1)


def test_the_temperature_grows_where_there_is_too_little_entropy():
    for entropy, sign in [(-2.0, -1), (0.0, 1)]:
        log_density = jnp.full(4, -entropy)
        slope = jax.grad(temperature_loss)(jnp.float32(0.3), log_density, target_entropy=-1.0)
        assert np.sign(slope) == sign


# ------------------------------------------------------------------------------------- the agent


def test_random_steps_are_uniform_and_learn_nothing():
    agent = agent_of(random_steps=3)
    state = agent.init(KEY)
    seen = jnp.broadcast_to(jnp.ones(3), (3000, 3))
    actions = np.asarray(agent.act(state, KEY, seen))
    np.testing.assert_allclose(actions.std(0), np.sqrt(1 / 3), atol=0.02)
    after, metrics = agent.learn(state, row(transitions(TASK, 1), 0))
    assert np.isnan(metrics["critic_loss"])
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_initial_values_are_the_published_ones():
    agent = agent_of(hidden=(256, 256))
    state = agent.init(KEY)
    assert state.params["layer2"]["kernel"].shape == (256, 4)
    assert state.rest.critics.params["layer0"]["kernel"].shape == (2, 5, 256)
    kernel = state.rest.critics.params["layer1"]["kernel"]
    limit = np.sqrt(6 / 512)
    assert 0.99 * limit < jnp.abs(kernel).max() <= limit and (kernel[0] != kernel[1]).all()
    jax.tree.map(np.testing.assert_array_equal, state.rest.targets, state.rest.critics.params)
    assert state.rest.temperature.params == 0


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (choice_task(), "SAC needs actions between bounds, and test/task has choices"),
        (task_of(3, [-np.inf], [1.0]), "SAC needs finite bounds of actions, one below the other"),
        (task_of(3, [1.0], [1.0]), r"test/task has \[1.0\] ... \[1.0\]; use PPO"),
        (task_of(3, [-3e38], [3e38]), "SAC needs finite bounds"),
    ],
)
def test_other_actions_are_refused(task, said):
    with pytest.raises(ValueError, match=said):
        agent_of(task)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"target_share must be in \[0, 1\], got 2.0"):
        agent_of(target_share=2.0)
    with pytest.raises(ValueError, match="batch_size must be 1 ... replay_size, 1, got 2"):
        agent_of(batch_size=2)
