"""The Gymnasium suite against plain loops over the same environments, one at a time."""

import importlib
import signal
import subprocess
import sys
import time

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from jax.tree_util import Partial

from nesht_jax.envs.host import normals
from nesht_jax.envs.suite import VectorEnv
from nesht_jax.envs.tasks import (
    make_evaluate,
    make_task,
    make_vector,
    reference_observations,
    task_names,
)
from nesht_jax.policy.normalize import by_running_moments
from nesht_jax.policy.policy import make_policy
from nesht_jax.types import Moments, Population, replicate

suite = importlib.import_module("nesht_jax.envs.gymnasium")

KEY = jax.random.key(7)
MEMBERS = 12
CARTPOLE, PENDULUM = "gymnasium/CartPole-v1", "gymnasium/Pendulum-v1"


def population_of(policy, count=MEMBERS):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), count))
    return stacked, Population(Partial(lambda x, i: jax.tree.map(lambda x: x[i], x), stacked))


def same(policy):
    return replicate(policy.init(KEY))


def play(task, policy, population, *, key=KEY, moments=None, **rules):
    evaluate = make_evaluate(task, policy, **{"num_members": MEMBERS, **rules})
    return evaluate(key, population, moments)


def plain_returns(task, stacked, *, pairs=False, to_action):
    """The obvious loop: every environment alone, numpy policy, nothing from the suite."""
    kernel, bias = (np.asarray(stacked["layer0"][part]) for part in ("kernel", "bias"))
    entropy = np.asarray(jax.random.key_data(KEY)).tolist()
    root = np.random.SeedSequence(entropy, spawn_key=(0,))
    totals, lengths = [], []
    for i in range(len(kernel)):
        seed = int(root.generate_state(MEMBERS)[i // 2 if pairs else i] >> 1)
        stream = np.random.SFC64(np.random.SeedSequence(entropy, spawn_key=(1, i)))
        env = gymnasium.make(task.name.partition("/")[2])
        observation, _ = env.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            true = spaces.flatten(env.observation_space, observation).astype(np.float32)
            features = normals(stream, (task.distractors * true.size,))
            action = to_action(np.concatenate([true, features]) @ kernel[i] + bias[i])
            observation, reward, terminated, truncated, _ = env.step(action)
            total, length, over = total + float(reward), length + 1, terminated or truncated
        env.close()
        totals.append(total)
        lengths.append(length)
    return np.array(totals), np.array(lengths)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [True, False])
def test_scores_equal_one_environment_at_a_time(pairs):
    task = make_task(CARTPOLE, distractors=2)
    policy = make_policy(task)
    stacked, population = population_of(policy)
    returns, lengths = plain_returns(task, stacked, pairs=pairs, to_action=np.argmax)
    assert len(set(lengths)) > 5
    for num_envs in (1, 5, None):
        rules = {"num_envs": num_envs, "common_random_numbers": pairs}
        played = play(task, policy, population, **rules)
        np.testing.assert_array_equal(played.fitness, returns)
        np.testing.assert_array_equal(played.steps, lengths)
        assert int(played.simulated_steps) == lengths.sum()


@pytest.mark.parametrize("name", ["Pendulum-v1", pytest.param("Hopper-v5", marks=pytest.mark.slow)])
def test_actions_equal_one_environment_at_a_time(name):
    task = make_task(f"gymnasium/{name}")
    policy = make_policy(task, output="clip")
    stacked, population = population_of(policy, 4)
    returns, lengths = plain_returns(
        task, stacked, to_action=lambda x: np.clip(x, task.action_low, task.action_high)
    )
    for num_envs in (1, 3):
        played = play(task, policy, population, num_members=4, num_envs=num_envs)
        np.testing.assert_array_equal(played.steps, lengths)
        np.testing.assert_allclose(played.fitness, returns, rtol=2e-3)


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [CARTPOLE, PENDULUM])
def test_a_vector_equals_plain_environments_step_by_step(name, mode):
    """Any choice of environments at a time; the others stay where they are."""
    task = make_task(name, horizon=30, options={"vectorization_mode": mode})
    vector = make_vector(task, num_envs=3, seed=11)
    assert isinstance(vector, VectorEnv) and vector.num_envs == 3
    seeds = (np.random.SeedSequence(11).generate_state(3) >> 1).tolist()
    plain = [gymnasium.make(name.partition("/")[2], max_episode_steps=30) for _ in seeds]
    first = [env.reset(seed=seed)[0] for env, seed in zip(plain, seeds, strict=True)]
    np.testing.assert_array_equal(vector.reset(np.arange(3)), first)
    generator, ended = np.random.default_rng(0), 0
    for _ in range(80):
        ids = np.flatnonzero(generator.integers(0, 2, 3))
        if not ids.size:
            continue
        said = generator.normal(0, 2, (ids.size, task.num_actions)).astype(np.float32)
        step = vector.step(said, ids)
        for row, i in enumerate(ids):
            bounded = np.clip(said[row], task.action_low, task.action_high)
            action = said[row].argmax() if task.discrete else bounded
            observation, reward, terminated, truncated, _ = plain[i].step(action)
            np.testing.assert_array_equal(step.observation[row], observation)
            assert step.reward[row] == reward
            assert (step.terminated[row], step.truncated[row]) == (terminated, truncated)
        over = ids[step.terminated | step.truncated]
        ended += over.size
        if over.size:
            np.testing.assert_array_equal(vector.reset(over), [plain[i].reset()[0] for i in over])
    assert ended > 2
    vector.close()


def test_a_vector_is_its_own_and_evaluation_beside_it_does_not_move_it():
    task = make_task(PENDULUM, horizon=5)
    policy = make_policy(task)
    seen = []
    for beside in (True, False):
        vector = make_vector(task, num_envs=2)
        rows = [vector.reset(np.arange(2))]
        if beside:
            play(task, policy, same(policy), num_members=3)
        rows.append(vector.step(np.zeros((2, 1), np.float32), np.arange(2)).observation)
        seen.append(rows)
    np.testing.assert_array_equal(*seen)


def test_a_vector_without_a_horizon_cuts_nothing():
    gymnasium.register("Endless-v0", entry_point=gymnasium.registry["Pendulum-v1"].entry_point)
    try:
        vector = make_vector(make_task("gymnasium/Endless-v0"), num_envs=1)
        vector.reset(np.arange(1))
        steps = [vector.step(np.zeros((1, 1), np.float32), np.arange(1)) for _ in range(300)]
        assert not any(step.truncated[0] for step in steps)
    finally:
        del gymnasium.registry["Endless-v0"]


def test_reference_observations_are_random_play_with_distractors():
    task = make_task(CARTPOLE, distractors=3)
    made, again = (reference_observations(task, number=60, seed=3) for _ in range(2))
    np.testing.assert_array_equal(made, again)
    assert made.shape == (60, 16) and made.dtype == np.float32
    env = gymnasium.make("CartPole-v1")
    seed = int(np.random.SeedSequence(3).generate_state(1)[0] >> 1)
    np.testing.assert_array_equal(made[0, :4], env.reset(seed=seed)[0])
    assert len(np.unique(made[:, 0])) == 60  # episodes that end are followed by others
    assert abs(made[:, 4:].mean()) < 5 / np.sqrt(720) and abs(made[:, 4:].std() - 1) < 0.15


def test_a_pair_shares_its_resets_only_if_asked():
    task = make_task(PENDULUM, horizon=5)
    policy = make_policy(task)
    for shared in (True, False):
        played = play(task, policy, same(policy), common_random_numbers=shared)
        pairs = np.asarray(played.fitness).reshape(-1, 2)
        assert ((pairs[:, 0] == pairs[:, 1]) == shared).all()
        assert len(np.unique(pairs[:, 0])) == len(pairs)


def test_episodes_of_a_member_are_averaged_and_counted():
    task = make_task(CARTPOLE)
    policy = make_policy(task)
    one = play(task, policy, same(policy), num_members=6)
    two = play(task, policy, same(policy), num_members=3, episodes_per_member=2)
    np.testing.assert_allclose(two.fitness, one.fitness.reshape(3, 2).mean(1))
    np.testing.assert_array_equal(two.steps, one.steps.reshape(3, 2).sum(1))


@pytest.mark.parametrize("horizon", [7, 230])
def test_the_horizon_may_be_shorter_or_longer_than_the_tasks_own(horizon):
    task = make_task(PENDULUM, horizon=horizon)
    policy = make_policy(task)
    played = play(task, policy, same(policy), num_members=2)
    assert (played.steps == horizon).all()


@pytest.mark.slow
def test_a_call_is_a_function_of_its_key():
    task = make_task(CARTPOLE, distractors=1)
    policy = make_policy(task, normalize=by_running_moments())
    _, population = population_of(policy)
    evaluate = make_evaluate(task, policy, num_members=MEMBERS, action_noise=0.5, num_envs=5)
    keys = jax.random.split(jax.random.key(0), 3)
    empty = Moments.empty(8)
    first = [evaluate(key, population, empty) for key in keys]
    evaluate.seek(1)
    again = evaluate(keys[1], population, empty)
    jax.tree.map(np.testing.assert_array_equal, first[1], again)
    evaluate.close()
    jax.tree.map(np.testing.assert_array_equal, again, evaluate(keys[1], population, empty))
    assert (np.asarray(first[0].fitness) != np.asarray(first[1].fitness)).any()
    rules = {"key": keys[1], "moments": empty, "action_noise": 0.5}
    fewer = play(task, policy, population, num_envs=2, **rules)
    np.testing.assert_array_equal(again.fitness, fewer.fitness)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
        again.observed,
        fewer.observed,
    )


def test_moments_count_living_observations_and_distractors_are_standard_normal():
    distractors, errors = 20, 5
    task = make_task(CARTPOLE, distractors=distractors)
    policy = make_policy(task, normalize=by_running_moments())
    _, population = population_of(policy)
    empty = Moments.empty(task.num_features)
    observed = play(task, policy, population, moments=empty).observed
    played = play(task, policy, population, moments=empty, num_envs=3)
    count = int(played.steps.sum())
    assert int(played.observed.number) == int(observed.number) == count
    mean, variance = (np.asarray(x)[4:] for x in (observed.mean, observed.deviation / count))
    assert np.abs(mean).max() < errors / np.sqrt(count)
    assert np.abs(variance - 1).max() < errors * np.sqrt(2 / count)


def test_distractors_are_drawn_anew_for_every_step_and_episode(monkeypatch):
    seen = []

    def watch(policy, task, action_noise):
        def act(assemble, moments, drawn, batch, action_normals, observed, busy):
            seen.extend(batch[busy, task.observation_size :].copy())
            return np.zeros((len(batch), 1), np.float32), observed

        return act

    monkeypatch.setattr(suite, "batched_act", watch)
    task = make_task(PENDULUM, distractors=3, horizon=8)
    policy = make_policy(task)
    play(task, policy, same(policy), num_members=7, num_envs=2)
    assert np.shape(seen) == (7 * 8, 9)
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_a_stochastic_policy_draws_its_choices():
    """As often as the softmax of its scores says."""
    task = make_task(CARTPOLE)
    policy = make_policy(task, output="sample")
    params = jax.tree.map(np.zeros_like, policy.init(KEY))
    played = play(task, policy, replicate(params), num_members=40)
    assert len(set(np.asarray(played.steps).tolist())) > 10
    params["layer0"]["bias"] = np.float32([9, 0])  # always the first, which falls at once
    always = play(task, policy, replicate(params), num_members=40)
    assert (np.asarray(always.steps) < 12).all()


class Corridor(gymnasium.Env):
    """Three cells; 5 goes right and pays 1, 4 goes left; only the cell decides what pays."""

    observation_space = spaces.Dict({"cell": spaces.Discrete(3), "one": spaces.Box(0, 1, (1, 1))})
    action_space = spaces.Discrete(2, start=4)

    def __init__(self, pay=1.0):
        self.pay = pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(3))
        return self._seen(), {}

    def step(self, action):
        assert action in (4, 5)
        reward = self.pay if action == 5 else 0.0
        self.cell = int(np.clip(self.cell + (1 if action == 5 else -1), 0, 2))
        return self._seen(), reward, False, False, {}

    def _seen(self):
        return {"cell": self.cell, "one": np.ones((1, 1), np.float32)}


@pytest.fixture
def corridor():
    gymnasium.register("Corridor-v0", entry_point=Corridor, max_episode_steps=6)
    gymnasium.register("Endless-v0", entry_point=Corridor)
    yield
    del gymnasium.registry["Corridor-v0"], gymnasium.registry["Endless-v0"]


def test_an_environment_of_ones_own(corridor):
    """Its Dict is flattened, the highest score played, the first of equals, from ``start`` on."""
    assert "gymnasium/Corridor-v0" in task_names("gymnasium")
    task = make_task("gymnasium/Corridor-v0", options={"pay": 2.0})
    assert (task.observation_size, task.horizon, task.discrete) == (4, 6, True)
    assert task.feature_names == ("cell[0]", "cell[1]", "cell[2]", "one")
    assert (task.action_low == -np.inf).all() and (task.action_high == np.inf).all()
    policy = make_policy(task)
    params = jax.tree.map(np.zeros_like, policy.init(KEY))
    assert (play(task, policy, replicate(params), num_members=2).fitness == 0).all()
    params["layer0"]["kernel"] += np.array([[0], [0], [0], [1]]) * np.array([-1, 1])
    assert (play(task, policy, replicate(params), num_members=2).fitness == 12).all()


def test_an_environment_without_a_limit_wants_a_horizon(corridor):
    task = make_task("gymnasium/Endless-v0")
    policy = make_policy(task)
    with pytest.raises(ValueError, match="no time limit of its own: set horizon"):
        play(task, policy, same(policy))
    task = make_task("gymnasium/Endless-v0", horizon=3)
    assert (play(task, policy, same(policy), num_members=2).steps == 3).all()


def test_a_module_registers_its_environments(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('My/Task-v0', max_episode_steps=9,\n"
        "    entry_point='gymnasium.envs.classic_control.cartpole:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(ValueError, match="unknown task .*gymnasium/my_module:My/Task-v0"):
            make_task("gymnasium/My/Task-v0")
        assert make_task("gymnasium/my_tasks:My/Task-v0").horizon == 9
    finally:
        gymnasium.registry.pop("My/Task-v0", None)


def test_processes_play_the_same():
    task, apart = (
        make_task(CARTPOLE, distractors=1, options={"vectorization_mode": mode})
        for mode in ("sync", "async")
    )
    policy = make_policy(task)
    _, population = population_of(policy)
    rules = {"num_envs": 2, "num_members": 4}
    here = play(task, policy, population, **rules)
    evaluate = make_evaluate(apart, policy, **rules)
    workers = apart.simulator.shared(2)._vector.processes
    there = evaluate(KEY, population, None)
    jax.tree.map(np.testing.assert_array_equal, here, there)
    del evaluate, apart
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v9", {}, "unknown task .*CartPole-v1"),
        ("ALE/Pong-v5", {}, "the module that registers it: gymnasium/ale_py:ALE/Pong-v5"),
        ("no_such_module:My-v0", {}, "needs the module 'no_such_module'"),
        (
            "CartPole-v1",
            {"sutton_barto_rewards": True},
            "option .*mean sutton_barto_reward",
        ),
        ("CartPole-v1", {"max_episode_steps": 3}, "'max_episode_steps': set horizon"),
        ("Hopper-v5", {"frame_skp": 3}, "cannot be made with .*frame_skp"),
        ("CartPole-v1", {"vectorization_mode": "vector_entry_point"}, "must be one of sync, async"),
    ],
)
def test_bad_input_is_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(f"gymnasium/{name}", options=options)


@pytest.mark.parametrize(
    ("kind", "space", "message"),
    [
        (
            "action",
            spaces.MultiDiscrete([2, 3]),
            "must act in a Box or a Discrete space, got Multi",
        ),
        ("observation", spaces.Sequence(spaces.Discrete(2)), "must observe a fixed number"),
    ],
)
def test_spaces_that_do_not_fit_are_told(corridor, monkeypatch, kind, space, message):
    monkeypatch.setattr(Corridor, f"{kind}_space", space)
    with pytest.raises(ValueError, match=message):
        make_task("gymnasium/Corridor-v0")


def test_an_error_within_an_episode_closes_the_environments(corridor, monkeypatch):
    task = make_task("gymnasium/Corridor-v0")
    policy = make_policy(task)
    evaluate = make_evaluate(task, policy, num_members=2)
    envs = task.simulator.shared(2)._envs
    monkeypatch.setattr(Corridor, "step", lambda self, action: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError in step 1 of an episode: division"):
        evaluate(KEY, same(policy), None)
    assert not envs


SCRIPT = """
import sys
from nesht_jax.run.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.slow
def test_ctrl_c_reaches_the_run_and_no_process_is_left(tmp_path):
    """A terminal sends it to every process of the group; the generation goes on to its end."""
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", "train", "gymnasium/CartPole-v1",
         "--task_options={vectorization_mode: async}", "--num_envs=2", "--algorithm.num_members=8",
         "--sparsity.fraction=0.5",
         "--generations=100000", f"--out={tmp_path / 'run'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    rows = tmp_path / "run/metrics.jsonl"
    while not rows.exists() or rows.read_text().count("\n") < 3:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    subprocess.run(["kill", "-INT", "--", f"-{run.pid}"], check=True)
    told, complaint = run.communicate(timeout=60)
    assert (run.returncode, complaint) == (128 + signal.SIGINT, b"")
    assert b"Stopped by SIGINT" in told
    for _ in range(100):  # the server that forked the workers notices that the run has ended
        left = subprocess.run(["pgrep", "-g", str(run.pid)], capture_output=True).stdout
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes {left.split()} are left")


@pytest.mark.slow
@pytest.mark.parametrize("name", suite.SUITE.names())
def test_every_listed_environment_plays_or_says_why_not(name):
    try:
        task = make_task(f"gymnasium/{name}", horizon=5)
    except ValueError as error:
        assert "cannot be made" in str(error)
        return
    policy = make_policy(task)
    played = play(task, policy, same(policy), num_members=2, num_envs=1)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()
