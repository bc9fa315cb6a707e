"""What holds of every agent: bits, masks, divergence; and that each learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl_helpers import ADAM, CARTPOLE, KEY, PENDULUM, SMALL, small_agent, stacked

from nesht_jax.envs.tasks import make_task
from nesht_jax.rl.dqn import make_dqn
from nesht_jax.rl.interaction import make_interaction
from nesht_jax.rl.ppo import make_ppo
from nesht_jax.rl.sac import make_sac
from nesht_jax.sparse.hard_thresholding import hard_thresholding
from nesht_jax.types import mask_of


class Run:
    """An agent in its environments, as one compiled loop."""

    def __init__(self, task, agent, *, num_envs=2):
        interaction = make_interaction(task, agent, num_envs=num_envs)
        self.init = jax.jit(lambda keys: (agent.init(keys[0]), interaction.init(keys[1])))
        self.loop = jax.jit(interaction.steps, static_argnums=2, donate_argnums=(0, 1))
        self.begin()

    def begin(self, seed=0):
        self.state, self.envs = self.init(jax.random.split(jax.random.key(seed)))

    def steps(self, n):
        self.state, self.envs, progress = self.loop(self.state, self.envs, n)
        return progress

    def bits(self):
        leaves = jax.tree.leaves((self.state, self.envs))
        keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        return [
            np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            for leaf, is_key in zip(leaves, keys, strict=True)
        ]


@functools.cache
def small_run(name):
    """Compiled once for all tests."""
    return Run(*small_agent(name))


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("name", SMALL[:3])
def test_the_same_seed_gives_the_same_bits_in_one_call_or_in_two(name):
    run = small_run(name)
    run.begin()
    progress, whole = run.steps(12), run.bits()
    assert bool(progress.metrics["finite"]) and run.state.steps == 24
    run.begin()
    first, second = run.steps(6), run.steps(6)
    jax.tree.map(np.testing.assert_array_equal, whole, run.bits())
    assert progress.episodes == first.episodes + second.episodes
    assert run.loop._cache_size() == 2, "one program for 12 steps, one for 6"
    run.begin(seed=1)
    run.steps(12)
    assert any((a != b).any() for a, b in zip(whole, run.bits(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL[:3])
def test_a_diverging_agent_says_so(name):
    run = small_run(name)
    run.begin()
    assert bool(run.steps(6).metrics["finite"])
    bias = run.state.params["layer1"]["bias"]
    run.state.params["layer1"]["bias"] = bias.at[0].set(jnp.inf)
    assert not bool(run.steps(6).metrics["finite"])


@pytest.mark.parametrize("name", SMALL)
def test_numbers_stay_float32_in_a_program_of_float64(name):
    task, agent = small_agent(name)
    interaction = make_interaction(task, agent, num_envs=2)
    with jax.enable_x64(True):
        state, envs = (jax.eval_shape(part.init, KEY) for part in (agent, interaction))
        after, _, progress = jax.eval_shape(lambda *two: interaction.steps(*two, 3), state, envs)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves((state, after, progress))}
    assert not {"float64", "int64"} & dtypes


def sparse(keep):
    return optax.chain(optax.adam(1e-2), hard_thresholding(keep=keep, every=1))


def count(tree):
    return sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(tree))


def assert_masked(params, optimizer):
    mask = mask_of(optimizer, params)
    outside = jax.tree.map(lambda x, alive: np.abs(np.where(alive, 0, x)).sum(), params, mask)
    assert sum(jax.tree.leaves(outside)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL[:3])
def test_a_sparse_optimizer_keeps_params_and_targets_sparse(name):
    critic = stacked(sparse(30)) if name == "sac" else sparse(30)
    rules = {"target_every": 1} if name == "dqn" else {}
    run = Run(*small_agent(name, sparse(20), critic, **rules))
    run.steps(8)
    state = run.state
    assert_masked(state.params, state.optimizer)
    assert 10 <= count(state.params) <= 20
    if name == "dqn":
        assert_masked(state.rest.target, state.optimizer)
        return
    critics = state.rest.critics if name == "sac" else state.rest.critic
    assert_masked(*critics)
    if name == "sac":
        assert_masked(state.rest.targets, critics.optimizer)
        for one in range(2):
            of_one = jax.tree.map(lambda x, one=one: x[one], critics.params)
            assert 15 <= count(of_one) <= 30


@pytest.mark.parametrize("name", SMALL[:3])
def test_params_are_sparse_from_the_start_where_the_mask_is(name):
    def init(params):
        alive = jax.tree.map(lambda x: jnp.arange(x.size).reshape(x.shape) % 2 == 0, params)
        return thresholding.init(params)._replace(mask=alive)

    thresholding = hard_thresholding(keep=5, every=9)
    optimizer = optax.GradientTransformationExtraArgs(init, thresholding.update)
    _, agent = small_agent(name, optimizer, optimizer)
    state = jax.jit(agent.init)(KEY)
    assert_masked(state.params, state.optimizer)
    if name == "sac":
        assert_masked(state.rest.targets, state.rest.critics.optimizer)


@pytest.mark.parametrize("name", SMALL)
def test_a_new_state_may_be_donated(name):
    _, agent = small_agent(name)
    state = agent.init(KEY)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state._replace(key=None))]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("name", SMALL)
def test_the_policy_plays_what_the_agent_has_learned(name):
    task, agent = small_agent(name)
    state, seen = agent.init(KEY), jnp.linspace(-3, 3, task.num_features)
    action = agent.policy.apply(state.params, state.moments, seen)
    assert action.shape == (task.num_actions,) and agent.policy.uses_moments == ("ppo" in name)
    assert ((action >= task.action_low) & (action <= task.action_high)).all()
    leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
    told = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
    assert {layer.kernel: layer.shape for layer in agent.policy.layers}.items() <= told.items()
    jax.tree.map(lambda a, b: None, agent.policy.init(KEY), state.params)


# ----------------------------------------------------------------------------------- they learn


def mean_returns(run, *, chunks, n):
    """The mean return of the episodes that end in each n steps; one compiled program."""
    told = [run.steps(n) for _ in range(chunks)]
    assert all(bool(progress.metrics["finite"]) for progress in told)
    return [float(some.returns) / max(int(some.episodes), 1) for some in told]


@pytest.mark.slow
def test_dqn_learns_to_balance():
    task = make_task(CARTPOLE)
    sizes = {"hidden": (64, 64), "batch_size": 64, "random_steps": 500}
    run = Run(task, make_dqn(task, optimizer=ADAM, **sizes), num_envs=1)
    returns = mean_returns(run, chunks=12, n=500)
    assert returns[0] < 40 and np.mean(returns[-5:]) > 150


@pytest.mark.slow
def test_sac_learns_to_swing_up():
    task, adam = make_task(PENDULUM), optax.adam(3e-3)
    names = "actor_optimizer", "critic_optimizer", "temperature_optimizer"
    sizes = {"hidden": (64, 64), "batch_size": 128, "random_steps": 400, "replay_size": 10_000}
    run = Run(task, make_sac(task, **{name: adam for name in names}, **sizes), num_envs=1)
    returns = mean_returns(run, chunks=9, n=400)
    assert np.mean(returns[:3]) < -1000 and np.mean(returns[-3:]) > -600


@pytest.mark.slow
def test_ppo_learns_to_balance():
    task, adam = make_task(CARTPOLE), optax.chain(optax.clip_by_global_norm(0.5), ADAM)
    sizes = {"num_envs": 8, "num_steps": 128, "num_epochs": 4, "normalize_rewards": False}
    agent = make_ppo(task, actor_optimizer=adam, critic_optimizer=adam, **sizes)
    returns = mean_returns(Run(task, agent, num_envs=8), chunks=16, n=128)
    assert returns[0] < 40 and np.mean(returns[-5:]) > 150
