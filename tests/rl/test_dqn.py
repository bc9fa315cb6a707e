"""DQN against rejax, update by update, and what it refuses."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState
from rejax import DQN
from rejax.buffers import Minibatch
from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy
from rl_helpers import KEY, Theirs, choice_task, compiled, jitted, row, task_of, transitions

from nesht_jax.rl import dqn
from nesht_jax.rl.dqn import make_dqn, td_loss
from nesht_jax.rl.replay import sample

TASK = choice_task(4, 2)
HIDDEN = (16, 8)


def agent_of(optimizer=None, **rules):
    rules = {"hidden": HIDDEN, "random_steps": 0, "replay_size": 1, "batch_size": 1} | rules
    return jitted(make_dqn(TASK, optimizer=optimizer or optax.adam(1e-2), **rules))


@cache
def theirs():
    network = EpsilonGreedyPolicy(DiscreteQNetwork)(
        hidden_layer_sizes=HIDDEN, action_dim=2, activation=nn.relu
    )
    return DQN.create(env="CartPole-v1", ddqn=False, gamma=0.99).replace(agent=network)


def renamed(params):
    return {"params": {name.replace("layer", "Dense_"): leaf for name, leaf in params.items()}}


def their_batch(batch):
    action, done = batch.action.argmax(1), batch.terminated
    return Minibatch(batch.observation, action, batch.reward, done, batch.next_observation)


def their_state(params, target, optimizer):
    q_ts = TrainState.create(apply_fn=(), params=renamed(params), tx=optimizer)
    state = Theirs(q_ts=q_ts, q_target_params=renamed(target))
    return compiled(theirs().update), state


def close(ours, expected, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), ours, expected)


@pytest.mark.simulator
def test_the_gradient_is_that_of_rejax_but_for_its_half():
    agent, batch = agent_of(), transitions(TASK, 32)
    params, target = agent.init(KEY).params, agent.init(jax.random.key(1)).params
    values = jax.vmap(agent.policy.apply, (None, None, 0))
    loss = partial(td_loss, lambda params, seen: values(params, None, seen), discount=0.99)
    gradient = jax.jit(jax.grad(loss))(params, target, batch)
    update, state = their_state(params, target, optax.sgd(1.0))
    after = update(state, their_batch(batch)).q_ts.params
    expected = jax.tree.map(lambda old, new: 2 * (old - new), renamed(params), after)
    close(renamed(gradient), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.simulator
def test_learning_is_that_of_rejax_update_by_update():
    """A replay of one transition leaves no choice of batches; two updates between copies."""
    told, agent = transitions(TASK, 7), agent_of(optax.adam(1e-2), target_every=2)
    ours = agent.init(KEY)
    update, state = their_state(ours.params, ours.rest.target, optax.adam(1e-2))
    for i in range(7):
        ours, metrics = agent.learn(ours, row(told, i))
        state = update(state, their_batch(row(told, i)))
        if i % 2:
            state = state.replace(q_target_params=state.q_ts.params)
        assert bool(metrics["finite"])
    close(renamed(ours.params), state.q_ts.params, rtol=1e-3, atol=1e-5)
    close(renamed(ours.rest.target), state.q_target_params, rtol=1e-3, atol=1e-5)
    assert (int(ours.steps), int(ours.rest.updates)) == (7, 7)


def test_what_follows_counts_but_after_an_end():
    """Q' = 5 for ever, reward 1: r + γ 5 where the time limit cut, r where the task ended."""
    cut = row(transitions(TASK, 1), 0)._replace(reward=jnp.ones(1))
    for terminated, wanted in [(False, 1 + 0.9 * 5), (True, 1.0)]:
        ended = jnp.array([terminated])
        told = cut._replace(terminated=ended, truncated=~ended)
        loss = td_loss(lambda q, seen: jnp.full((1, 2), q), 0.0, 5.0, told, discount=0.9)
        np.testing.assert_allclose(loss, wanted**2, rtol=1e-6)


@pytest.mark.slow
def test_nothing_is_learned_before_the_random_steps_are_over():
    agent, told = agent_of(random_steps=4), transitions(TASK, 4)
    state = first = agent.init(KEY)
    for i in range(4):
        state, metrics = agent.learn(state, row(told, i))
        assert np.isnan(metrics["loss"])
        jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    state, metrics = agent.learn(state, row(told, 0))
    assert np.isfinite(metrics["loss"]) and state.rest.updates == 1


@pytest.mark.slow
def test_signal_to_noise_is_that_of_the_batch_now_and_then(monkeypatch):
    monkeypatch.setattr(dqn, "SNR_EVERY", 3)
    agent, told = agent_of(replay_size=8, batch_size=4), transitions(TASK, 7)
    state = before = agent.init(KEY)
    found = []
    for i in range(7):
        before = state
        state, metrics = agent.learn(state, row(told, i))
        found.append(float(metrics["gradient_snr"]))
    assert [np.isfinite(value) for value in found] == [i % 3 == 0 for i in range(7)]
    batch_key, _ = jax.random.split(jax.random.fold_in(before.key, before.steps))
    batch = sample(state.rest.replay, batch_key, 4)
    values = jax.vmap(agent.policy.apply, (None, None, 0))
    each = []
    for i in range(4):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        loss = partial(td_loss, lambda params, seen: values(params, None, seen), discount=0.99)
        gradient = jax.grad(loss)(before.params, before.rest.target, one)
        each.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    expected = (abs(np.mean(each, 0)) / (np.std(each, 0) + 1e-10)).mean()
    np.testing.assert_allclose(found[6], expected, rtol=1e-3)


def test_it_explores_as_often_as_told():
    agent, seen = agent_of(epsilon=0.3, random_steps=10), jnp.ones((4000, 4))
    state = agent.init(KEY)
    best = jnp.argmax(agent.policy.apply(state.params, None, seen[0]))

    def best_chosen(steps):
        actions = np.asarray(agent.act(state._replace(steps=jnp.int32(steps)), KEY, seen))
        assert (np.sort(actions) == [0, 1]).all()
        return (actions.argmax(1) == best).mean()

    for steps, share in [(9, 0.5), (10, 0.85)]:
        assert abs(best_chosen(steps) - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_initial_values_are_the_published_ones():
    wide = jitted(make_dqn(choice_task(4, 3), optimizer=optax.sgd(1.0), replay_size=200))
    params = wide.init(KEY).params
    stds = [float(params[layer]["kernel"].std()) for layer in ("layer0", "layer1")]
    np.testing.assert_allclose(stds, np.sqrt([2 / 4, 2 / 512]), rtol=0.05)
    last = params["layer2"]
    assert 0.025 < jnp.abs(last["kernel"]).max() <= 0.03
    np.testing.assert_array_equal(last["bias"], np.full(3, -0.2, np.float32))
    assert not params["layer0"]["bias"].any() and params["layer1"]["kernel"].shape == (512, 512)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"batch_size": 9, "replay_size": 8}, "batch_size must be 1 ... replay_size, 8, got 9"),
        ({"batch_size": 0}, "batch_size must be 1"),
        ({"epsilon": 1.5}, r"epsilon must be in \[0, 1\], got 1.5"),
        ({"discount": -0.1}, r"discount must be in \[0, 1\], got -0.1"),
        ({"random_steps": -1}, "random_steps must not be negative, got -1"),
        ({"target_every": 0}, "target_every must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(rules, said):
    with pytest.raises(ValueError, match=said):
        agent_of(**rules)


def test_bounded_actions_are_refused():
    with pytest.raises(ValueError, match="DQN needs a choice of actions, and test/task has none"):
        make_dqn(task_of(), optimizer=optax.sgd(1.0))
