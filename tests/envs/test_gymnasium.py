"""The Gymnasium room against plain loops over the same environments, one at a time."""

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

from nesht_jax import make_evaluate, make_policy, task_names, task_spec
from nesht_jax.contract import Members, alike
from nesht_jax.envs.host import normals
from nesht_jax.normalize import empty, none, running

room = importlib.import_module("nesht_jax.envs.gymnasium")
seats = importlib.import_module("nesht_jax.envs.gymnasium_vector")

KEY = jax.random.key(7)
MEMBERS = 12
TASK = "gymnasium/CartPole-v1"


def linear_policy(task, noise=0, normalizer=None):
    spec = task_spec(task)
    features = spec.observation_size * (1 + noise)
    bounds = spec.action_low, spec.action_high
    return make_policy(features, *bounds, output="clip", normalizer=normalizer or none())


def members(policy, count=MEMBERS):
    stacked = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), count))
    own = Partial(lambda params, i: jax.tree.map(lambda x: x[i], params), stacked)
    return stacked, Members(own)


def play(task, policy, member, *, key=KEY, moments=None, **rules):
    rules = {"num_members": MEMBERS, **rules}
    return make_evaluate(task, policy, **rules)(key, member, moments)


def plain_returns(name, stacked, *, noise, make=gymnasium.make, pairs=False, to_action):
    """The obvious loop: every environment alone, numpy policy, nothing from the room."""
    kernel, bias = (np.asarray(stacked["layer0"][part]) for part in ("kernel", "bias"))
    entropy = np.asarray(jax.random.key_data(KEY)).tolist()
    root = np.random.SeedSequence(entropy, spawn_key=(0,))
    totals, lengths = [], []
    for i in range(len(kernel)):
        seed = int(root.generate_state(MEMBERS)[i // 2 if pairs else i] >> 1)
        stream = np.random.SeedSequence(entropy, spawn_key=(1, i))
        bits = np.random.SFC64(stream)
        env = make(name)
        observation, _ = env.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            true = spaces.flatten(env.observation_space, observation).astype(np.float32)
            features = normals(bits, (noise * true.size,))
            action = to_action(np.concatenate([true, features]) @ kernel[i] + bias[i])
            observation, reward, terminated, truncated, _ = env.step(action)
            total, length, over = total + float(reward), length + 1, terminated or truncated
        env.close()
        totals.append(total)
        lengths.append(length)
    return np.array(totals), np.array(lengths)


@pytest.mark.parametrize("slots", [1, 5, None])
@pytest.mark.parametrize("pairs", [True, False])
def test_scores_equal_one_environment_at_a_time(slots, pairs):
    policy = linear_policy(TASK, noise=2)
    stacked, member = members(policy)
    played = play(TASK, policy, member, noise=2, slots=slots, common_random_numbers=pairs)
    returns, lengths = plain_returns(
        "CartPole-v1", stacked, noise=2, pairs=pairs, to_action=np.argmax
    )
    np.testing.assert_array_equal(played.fitness, returns)
    np.testing.assert_array_equal(played.steps, lengths)
    assert int(played.simulated) == lengths.sum()
    assert len(set(lengths)) > 5


@pytest.mark.parametrize("name", ["Pendulum-v1", pytest.param("Hopper-v5", marks=pytest.mark.slow)])
def test_actions_equal_one_environment_at_a_time(name):
    task = f"gymnasium/{name}"
    policy, spec = linear_policy(task), task_spec(task)
    stacked, member = members(policy, 4)
    returns, lengths = plain_returns(
        name, stacked, noise=0, to_action=lambda x: np.clip(x, spec.action_low, spec.action_high)
    )
    for slots in (1, 3):
        played = play(task, policy, member, num_members=4, slots=slots)
        np.testing.assert_array_equal(played.steps, lengths)
        np.testing.assert_allclose(played.fitness, returns, rtol=2e-3)


def test_a_pair_shares_its_resets_only_if_asked():
    policy = linear_policy("gymnasium/Pendulum-v1")
    for shared in (True, False):
        played = play(
            "gymnasium/Pendulum-v1",
            policy,
            alike(policy.init(KEY)),
            horizon=5,
            common_random_numbers=shared,
        )
        pairs = np.asarray(played.fitness).reshape(-1, 2)
        assert ((pairs[:, 0] == pairs[:, 1]) == shared).all()
        assert len(np.unique(pairs[:, 0])) == len(pairs)


def test_rollouts_are_averaged_and_counted():
    policy = linear_policy(TASK)
    one = play(TASK, policy, alike(policy.init(KEY)), num_members=6)
    two = play(TASK, policy, alike(policy.init(KEY)), num_members=3, rollouts=2)
    np.testing.assert_allclose(two.fitness, one.fitness.reshape(3, 2).mean(1))
    np.testing.assert_array_equal(two.steps, one.steps.reshape(3, 2).sum(1))


@pytest.mark.parametrize("horizon", [7, 230])
def test_the_horizon_may_be_shorter_or_longer_than_the_tasks_own(horizon):
    policy = linear_policy("gymnasium/Pendulum-v1")
    played = play(
        "gymnasium/Pendulum-v1", policy, alike(policy.init(KEY)), num_members=2, horizon=horizon
    )
    assert (played.steps == horizon).all()


def test_a_call_is_a_function_of_its_key():
    policy = linear_policy(TASK, noise=1, normalizer=running())
    _, member = members(policy)
    evaluate = make_evaluate(TASK, policy, num_members=MEMBERS, noise=1, action_noise=0.5, slots=5)
    keys = jax.random.split(jax.random.key(0), 3)
    first = [evaluate(key, member, empty(8)) for key in keys]
    evaluate.seek(1)
    again = evaluate(keys[1], member, empty(8))
    jax.tree.map(np.testing.assert_array_equal, first[1], again)
    assert (np.asarray(first[0].fitness) != np.asarray(first[1].fitness)).any()
    fewer = play(
        TASK, policy, member, key=keys[1], moments=empty(8), noise=1, action_noise=0.5, slots=2
    )
    np.testing.assert_array_equal(again.fitness, fewer.fitness)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
        again.observed,
        fewer.observed,
    )


def test_moments_count_living_observations_and_noise_is_standard_normal():
    noise, errors = 20, 5
    policy = linear_policy(TASK, noise, running())
    _, member = members(policy)
    observed = play(TASK, policy, member, noise=noise, moments=empty(4 * (1 + noise))).observed
    played = play(TASK, policy, member, noise=noise, moments=empty(4 * (1 + noise)), slots=3)
    count = int(played.steps.sum())
    assert int(played.observed.number) == int(observed.number) == count
    mean, variance = (np.asarray(x)[4:] for x in (observed.mean, observed.deviation / count))
    assert np.abs(mean).max() < errors / np.sqrt(count)
    assert np.abs(variance - 1).max() < errors * np.sqrt(2 / count)


def test_noise_features_are_drawn_anew_for_every_step_and_episode(monkeypatch):
    seen = []

    def watch(policy, task, action_noise):
        def act(params, moments, own, batch, jitter, observed, busy):
            seen.extend(batch[busy, task.observation_size :].copy())
            return np.zeros((len(batch), 1), np.float32), observed

        return act

    monkeypatch.setattr(room, "batched_act", watch)
    policy = linear_policy("gymnasium/Pendulum-v1", 3)
    member = alike(policy.init(KEY))
    play("gymnasium/Pendulum-v1", policy, member, noise=3, horizon=8, num_members=7, slots=2)
    assert np.shape(seen) == (7 * 8, 9)
    assert len(np.unique(seen, axis=0)) == len(seen)


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
    task = "gymnasium/Corridor-v0"
    assert task in task_names("gymnasium")
    spec = task_spec(task)
    assert (spec.observation_size, spec.horizon) == (4, 6)
    assert (spec.action_low == -np.inf).all() and (spec.action_high == np.inf).all()
    policy = linear_policy(task)
    params = jax.tree.map(np.zeros_like, policy.init(KEY))
    idle = alike(params)
    assert (play(task, policy, idle, num_members=2).fitness == 0).all()
    params["layer0"]["kernel"] += np.array([[0], [0], [0], [1]]) * np.array([-1, 1])
    right = alike(params)
    assert (play(task, policy, right, num_members=2, options={"pay": 2.0}).fitness == 12).all()


def test_an_environment_without_a_limit_wants_a_horizon(corridor):
    policy = linear_policy("gymnasium/Endless-v0")
    with pytest.raises(ValueError, match="no time limit of its own: set horizon"):
        play("gymnasium/Endless-v0", policy, alike(policy.init(KEY)))
    played = play("gymnasium/Endless-v0", policy, alike(policy.init(KEY)), num_members=2, horizon=3)
    assert (played.steps == 3).all()


def test_a_module_registers_its_environments(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('My/Task-v0', max_episode_steps=9,\n"
        "    entry_point='gymnasium.envs.classic_control.cartpole:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert task_spec("gymnasium/my_tasks:My/Task-v0").horizon == 9
    finally:
        gymnasium.registry.pop("My/Task-v0", None)


def test_processes_play_the_same():
    policy = linear_policy(TASK, noise=1)
    _, member = members(policy)
    rules = {"noise": 1, "slots": 2, "num_members": 4}
    here = play(TASK, policy, member, **rules)
    evaluate = make_evaluate(TASK, policy, options={"vectorization_mode": "async"}, **rules)
    workers = evaluate._vector.processes
    there = evaluate(KEY, member, None)
    jax.tree.map(np.testing.assert_array_equal, here, there)
    del evaluate
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v9", {}, "unknown task .*CartPole-v1"),
        ("no_such_module:My-v0", {}, "needs the module 'no_such_module'"),
        ("CartPole-v1", {"sutton_barto_rewards": True}, "the nearest are sutton_barto_reward"),
        ("CartPole-v1", {"max_episode_steps": 3}, "no option 'max_episode_steps'"),
        ("Hopper-v5", {"frame_skp": 3}, "cannot be made with .*frame_skp"),
        ("CartPole-v1", {"vectorization_mode": "vector_entry_point"}, "must be one of sync, async"),
    ],
)
def test_bad_input_is_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        task_spec(f"gymnasium/{name}", options)


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
        task_spec("gymnasium/Corridor-v0")


def test_an_error_within_an_episode_closes_the_environments(corridor, monkeypatch):
    policy = linear_policy("gymnasium/Corridor-v0")
    evaluate = make_evaluate("gymnasium/Corridor-v0", policy, num_members=2)
    monkeypatch.setattr(Corridor, "step", lambda self, action: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(KEY, alike(policy.init(KEY)), None)
    assert evaluate._vector.closed


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
        [sys.executable, tmp_path / "script.py", "train", "--task=gymnasium/CartPole-v1",
         "--task_options={vectorization_mode: async}", "--slots=2", "--members=8",
         "--generations=100000", "--policy.output=clip", f"--out={tmp_path / 'run'}"],
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
@pytest.mark.parametrize("name", seats.names())
def test_every_listed_environment_plays_or_says_why_not(name):
    task = f"gymnasium/{name}"
    try:
        policy = linear_policy(task)
    except ValueError as error:
        assert "cannot be made" in str(error)
        return
    played = play(task, policy, alike(policy.init(KEY)), num_members=2, horizon=5, slots=1)
    assert np.isfinite(played.fitness).all() and (played.steps <= 5).all()


def test_where_envpool_has_no_wheel_gymnasium_plays(monkeypatch):
    envs = importlib.import_module("nesht_jax.envs")
    monkeypatch.setattr(envs.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(envs.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="gymnasium/Hopper-v5 plays instead of envpool/Hopper-v5"):
        assert task_spec("envpool/Hopper-v5").observation_size == 11
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="unknown task"):
        task_spec("envpool/Hoper-v5")


@pytest.mark.parametrize(
    ("room", "remedy"),
    [
        ("envpool", "pip install envpool"),
        ("brax", r"pip install 'nesht-jax\[brax\]'"),
        ("gymnax", r"pip install 'nesht-jax\[gymnax\]'"),
        ("playground", r"pip install 'nesht-jax\[playground\]'"),
    ],
)
def test_what_installs_a_missing_package_is_told(monkeypatch, room, remedy):
    """On Linux, where envpool has wheels."""
    monkeypatch.setitem(sys.modules, f"nesht_jax.envs.{room}", None)
    with pytest.raises(ValueError, match=remedy):
        task_names(room)
