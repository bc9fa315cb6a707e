"""Agents as runs: resumed, evaluated, loaded, exported, swept, refused, and ended by divergence."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import without_time

from nesht_jax import export, load, make_config, train
from nesht_jax.rl.agent import Agent
from nesht_jax.run.build import build
from nesht_jax.run.cli import main
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.sweep import sweep
from nesht_jax.types import mask_of, sparse_states

SMALL = {
    "policy": {"hidden": [16, 8]},
    "evaluation": {"every": 2, "episodes": 3},
    "sparsity": {"fraction": 0.75, "every": 10, "end": None},
    "steps": None,
    "checkpoint_every": 2,
}
DQN = SMALL | {
    "agent": {"steps_per_generation": 100, "random_steps": 50, "batch_size": 16, "replay_size": 500}
}
CASES = {
    "dqn": ("gymnax/CartPole-v1", DQN),
    "sac": ("gymnax/Pendulum-v1", DQN | {"sparsity": {"method": "set", **SMALL["sparsity"]}}),
    "ppo": (
        "gymnax/CartPole-v1",
        SMALL
        | {
            "agent": {
                "steps_per_generation": 64,
                "rollout": 64,
                "batch_size": 16,
                "epochs": 2,
                "learning_rate_decay": False,
                "critic_fraction": 0.5,
            }
        },
    ),
}


def small(name, *, generations=3, out=None, **changes):
    task, settings = CASES[name]
    return make_config(
        task, name, **(settings | changes | {"generations": generations, "out": out})
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of DQN; do not change it."""
    return train(small("dqn", out=str(tmp_path_factory.mktemp("agents") / "run")))


def leaves(state):
    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    return [plain(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_agent_is_the_uninterrupted_one_bit_for_bit(name, tmp_path, quiet):
    whole = train(small(name, out=str(tmp_path / "whole")), console=quiet)
    cut = small(name, generations=2, out=str(tmp_path / "cut"))
    train(cut, console=quiet)
    resumed = train(replace(cut, generations=3), resume=True, console=quiet)
    assert leaves(resumed.state) == leaves(whole.state)
    assert without_time(resumed.rows)[3:] == without_time(whole.rows)[3:]
    assert whole.rows[-1].agent and all(row.steps for row in whole.rows[1:])


@pytest.mark.slow
def test_a_run_of_an_agent_is_a_run_as_every_other(run):
    policy = load(run.folder)
    kernels = [np.asarray(layer["kernel"]) for layer in policy.params.values()]
    total = sum(kernel.size for kernel in kernels)
    mask = mask_of(run.state.optimizer, run.state.params)
    assert sum(int(layer["kernel"].sum()) for layer in mask.values()) == total // 4
    weights = sum(np.count_nonzero(kernel) for kernel in kernels)
    assert total // 4 - 8 < weights <= total // 4  # what has just grown may still be 0
    found = evaluate_run(run.folder, episodes=4)
    assert found.center is None and found.thresholded.episodes == 4
    assert run.rows[-1].sparsity == pytest.approx(run.rows[-1].evaluation.sparsity)
    assert policy(np.zeros(4, np.float32)) in (0, 1)
    made = export(run.folder, "numpy")
    assert made.difference < 1e-5 and made.weights <= weights


@pytest.mark.slow
def test_the_policy_of_sac_is_exported_without_its_deviations(tmp_path, quiet):
    done = train(small("sac", generations=1, out=str(tmp_path / "run")), console=quiet)
    made = export(done.folder, "numpy")
    assert made.difference < 1e-5
    assert load(done.folder)(np.ones(3, np.float32)).shape == (1,)


@pytest.mark.slow
def test_actor_and_critics_are_sparse_apart():
    task, settings = CASES["sac"]
    agent = DQN["agent"] | {"critic_fraction": 0.5}
    state = build(make_config(task, "sac", **(settings | {"agent": agent}))).state
    critics = state.agent.rest.critics
    alive = mask_of(critics.optimizer, critics.params)
    shares = [np.asarray(layer["kernel"]).reshape(2, -1).sum(1) for layer in alive.values()]
    sizes = [layer["kernel"][0].size for layer in alive.values()]
    assert (np.sum(shares, axis=0) == sum(sizes) - sum(sizes) // 2).all()
    first, second = alive["layer0"]["kernel"]
    assert (first != second).any()
    jax.tree.map(
        lambda target, lives: np.testing.assert_array_equal(np.asarray(target)[~lives], 0),
        state.agent.rest.targets,
        jax.tree.map(np.asarray, alive),
    )
    (actor,) = sparse_states(state.optimizer)
    kernels = [np.asarray(layer["kernel"]) for layer in actor.mask.values()]
    assert sum(k.sum() for k in kernels) == sum(k.size for k in kernels) * 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dqn", "sac", "ppo"])
def test_first_weights_of_sparse_agents(name):
    task, settings = CASES[name]

    def first(kind):
        agent = settings["agent"] | {"first_weights": kind}
        state = build(make_config(task, name, **(settings | {"agent": agent}))).state
        mask = mask_of(state.optimizer, state.params)
        alive = np.asarray(mask["layer1"]["kernel"])
        kernel = np.asarray(state.params["layer1"]["kernel"])
        assert (kernel[~alive] == 0).all()
        return state, kernel, alive

    (dense, kernel, alive), (_, scaled, _), (drawn, glorot, _) = map(
        first, ("dense", "scaled", "glorot")
    )
    live = alive.sum(0)
    np.testing.assert_allclose(
        scaled, kernel * np.sqrt(len(alive) / np.maximum(live, 1)), rtol=1e-5
    )
    fans = np.maximum(1, (live[None] + alive.sum(1)[:, None]) / 2)
    assert (abs(glorot) <= np.sqrt(3 / fans) * (1 + 1e-6)).all() and (glorot != kernel)[alive].any()
    if name == "sac":
        first, second = drawn.agent.rest.critics.params["layer1"]["kernel"]
        assert not np.isin(first[first != 0], second).any()
        assert not np.isin(
            first[first != 0], dense.agent.rest.critics.params["layer1"]["kernel"]
        ).any()


@pytest.mark.slow
def test_an_agent_on_a_host_simulator_learns_and_goes_on(tmp_path, quiet):
    config = replace(small("dqn", generations=2), task="gymnasium/CartPole-v1")
    config = replace(config, out=str(tmp_path / "run"))
    first = train(config, console=quiet)
    assert int(first.state.agent.steps) == 200
    again = train(replace(config, generations=3), resume=True, console=quiet)
    assert [row.generation for row in again.rows] == [0, 1, 2, 3]
    assert leaves(again.state) != leaves(first.state)


@pytest.mark.slow
def test_the_preset_plays_in_envpool_too(tmp_path, quiet):
    pytest.importorskip("envpool", reason="envpool has no wheel for this machine")
    config = small("sac", generations=1, out=str(tmp_path / "run"))
    done = train(replace(config, task="envpool/Pendulum-v1"), console=quiet)
    assert done.rows[-1].evaluation.episodes == 3


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["gymnasium", "envpool"])
def test_an_agent_on_a_host_simulator_sees_distractors(suite, tmp_path, quiet):
    pytest.importorskip(suite, reason=f"{suite} has no wheel for this machine")
    config = replace(small("dqn", generations=2), task=f"{suite}/CartPole-v1")
    config = replace(config, distractors=3, distractor_kind="replayed", out=str(tmp_path / "run"))
    done = train(config, console=quiet)
    assert done.state.params["layer0"]["kernel"].shape[0] == 4 * (1 + 3)
    assert int(done.state.agent.steps) == 200


@pytest.mark.slow
def test_a_resumed_run_cannot_move_the_end_of_its_learning_rate(tmp_path, capsys):
    out = str(tmp_path / "run")
    words = (
        "train gymnax/CartPole-v1 ppo --policy.hidden [4] --steps 64 --agent.rollout 32 "
        f"--agent.batch_size 16 --agent.epochs 1 --agent.steps_per_generation 32 --out {out}"
    )
    assert main([*words.split(), "--evaluation.episodes", "2"]) == 0
    assert "Train it further" not in capsys.readouterr().out
    assert main(["train", "--resume", out, "--steps", "128"]) == 2
    assert "steps cannot change where agent.learning_rate_decay" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_goes_on_where_an_agent_diverges(tmp_path, quiet):
    lost = small("dqn", generations=1, optimizer={"learning_rate": 1e30})
    kept = small("dqn", generations=1)
    found = list(sweep([lost, kept], seeds=[0], folder=tmp_path, console=quiet))
    assert [config.optimizer.learning_rate for config, _ in found] == [1e-3]


WORDS = (
    "gymnax/CartPole-v1 dqn --policy.hidden [8] --generations 1 --steps null --sparsity.end null "
    "--agent.steps_per_generation 50 --agent.random_steps 8 --agent.batch_size 8 "
    "--sparsity.method none"
)


@pytest.mark.slow
def test_the_command_of_a_sweep_leaves_out_what_diverges(tmp_path, capsys):
    out = tmp_path / "sweep"
    rates = "--optimizer.learning_rate=1e30,0.001"
    assert main(["sweep", *WORDS.split(), rates, f"--out={out}"]) == 0
    assert "params are no longer finite" in capsys.readouterr().out
    table = (out / "sweep.csv").read_text(encoding="utf-8")
    assert "0.001" in table and "1e+30" not in table


@pytest.mark.slow
def test_a_sweep_of_which_nothing_is_left_says_so(tmp_path, capsys):
    rates = "--optimizer.learning_rate=1e30,1e31"
    assert main(["sweep", *WORDS.split(), rates, f"--out={tmp_path / 'sweep'}"]) == 1
    assert "every agent diverged: there is nothing to compare" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_of_which_one_seed_diverges_has_no_score(tmp_path, monkeypatch):
    """The mean of the others would speak for what diverges on most of its seeds."""
    pytest.importorskip("optuna")
    scores = []

    def ended(bases, *, seeds, folder, console):
        yield from list(sweep(bases, seeds=[seeds[0]], folder=folder, console=console))

    def told(folder, space, *, first, trials, searched, score):
        scores.append(score(0, first))

    monkeypatch.setattr("nesht_jax.run.sweep.sweep", ended)
    monkeypatch.setattr("nesht_jax.run.cli.sweep.tune", told)
    rates = ["--optimizer.learning_rate=0.001..0.01", "--seed=0..1", "--optuna=1"]
    assert main(["sweep", *WORDS.split(), *rates, f"--out={tmp_path / 'sweep'}"]) == 0
    assert scores == [None]


@pytest.mark.slow
def test_what_ppo_sees_is_clipped_as_the_policy_says(tmp_path, quiet):
    _, settings = CASES["ppo"]
    policy = settings["policy"] | {"clip": 0.5}
    config = small("ppo", policy=policy, out=str(tmp_path / "run"))
    done = train(replace(config, task="gymnax/Pendulum-v1"), console=quiet)
    assert export(done.folder, "numpy").difference < 1e-5


@pytest.mark.slow
def test_seeds_of_a_sweep_are_trained_one_after_another(tmp_path, quiet):
    runs = list(sweep([small("dqn", generations=1)], seeds=[0, 1], folder=tmp_path, console=quiet))
    assert [config.seed for config, _ in runs] == [0, 1]


@pytest.mark.slow
def test_an_agent_that_diverges_ends_in_a_sentence_and_keeps_its_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    words = (
        "train gymnax/CartPole-v1 dqn --policy.hidden [8] --generations 2 --steps null "
        f"--out {out} --optimizer.learning_rate 1e30 --agent.random_steps 8 --agent.batch_size 8 "
        "--agent.steps_per_generation 50 --sparsity.end null"
    )
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert "params are no longer finite" in error and "Traceback" not in error
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(load(out).params))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("gymnax/Pendulum-v1 dqn", "DQN needs a choice of actions"),
        ("gymnax/CartPole-v1 sac", "SAC needs actions between bounds"),
        (
            "gymnax/CartPole-v1 dqn --sparsity.method hard_threshold --sparsity.fraction 0.5",
            "agent.name dqn takes sparsity.method static, set, rigl or pruning",
        ),
        (
            "gymnax/CartPole-v1 --agent.name dqn",
            "needs policy.activation relu, as the preset dqn has it, got tanh",
        ),
        ("gymnax/CartPole-v1 dqn --policy.hidden []", "needs hidden layers"),
        ("gymnax/CartPole-v1 dqn --policy.kernel toeplitz", "leave search.space and policy.kernel"),
        (
            "gymnax/CartPole-v1 dqn --sparsity.fraction 0.9 --sparsity.every 100000",
            "sparsity.every must be at most the 99000 updates, got 100000",
        ),
        (
            "gymnax/CartPole-v1 dqn --steps 5000 --sparsity.fraction 0.9",
            "sparsity.end must be below the 4000 updates, got 75000",
        ),
        ("gymnax/CartPole-v1 dqn --agent.critic_fraction 0.5", "agent.name dqn has no critic"),
        (
            "gymnax/Pendulum-v1 sac --sparsity.method none --agent.critic_fraction 0.5",
            "agent.critic_fraction needs sparsity.method static, set, rigl or pruning, got none",
        ),
        (
            "gymnax/Pendulum-v1 sac --sparsity.scope all --sparsity.keep 50",
            "sparsity.keep is of the actor; say agent.critic_fraction too",
        ),
        (
            "gymnax/Pendulum-v1 sac --agent.critic_fraction 0.5 --sparsity.every 1000000",
            "sparsity.every must be at most the 999000 updates, got 1000000",
        ),
        (
            "gymnax/CartPole-v1 dqn --horizon 100 --horizon_growth 1.5",
            "leave horizon_growth out, got 1.5",
        ),
        (
            "gymnax/CartPole-v1 dqn --num_envs 200 --agent.replay_size 150",
            "agent.replay_size must hold num_envs and agent.batch_size, 200, got 150",
        ),
        (
            "gymnax/CartPole-v1 ppo --agent.rollout 100",
            "agent.rollout times num_envs must be a multiple of agent.batch_size, 64, got 100",
        ),
        ("gymnax/CartPole-v1 dqn --agent.discount 2", "agent.discount must be in [0, 1], got 2"),
        ("gymnax/CartPole-v1 dqn --optimizer.options {b1:x}", "optimizer.options"),
        ("gymnax/CartPole-v1 dqn --optimizer.name lbfgs", "optimizer lbfgs cannot be used"),
        (
            "gymnax/CartPole-v1 ppo --sparsity.fraction 0.9 --sparsity.method pruning "
            "--sparsity.end 1000000",
            "sparsity.end must be below the 156480 updates, got 1000000",
        ),
        (
            "gymnax/CartPole-v1 dqn --sparsity.fraction 0.999999",
            "leaves layer0/kernel none: lower the sparsity",
        ),
        ("gymnax/CartPole-v1 dqn --agent.critic_fraction 1", "agent.critic_fraction must be in"),
        (
            "gymnax/CartPole-v1 ppo --steps null --generations 3",
            "agent.learning_rate_decay needs steps",
        ),
        ("gymnax/Breakout-MinAtar dqn", "is for vectors"),
        (
            "gymnax/CartPole-v1 dqn --agent.batch_size 200000",
            "agent.replay_size must hold",
        ),
        ("gymnax/CartPole-v1 dqn --optimizer.name adamm", "there is no optimizer 'adamm'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*f"train {words} --out".split(), str(out)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split()) and not out.exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "DQN-RigL"),
        ({"sparsity": {"fraction": 0.0}}, "DQN"),
        ({"sparsity": SMALL["sparsity"] | {"method": "set"}}, "DQN-SET"),
    ],
)
def test_its_name(changes, name):
    assert small("dqn", **changes).method == name


@pytest.mark.slow
def test_the_config_says_which_kind_of_algorithm_runs():
    assert isinstance(build(small("dqn")).algorithm, Agent)
