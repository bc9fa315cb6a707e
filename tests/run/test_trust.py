"""A run of somebody else: no module that its config names is imported without being asked."""

import importlib
import sys
from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest

from nesht_jax import load
from nesht_jax.envs.catalog import module_of
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run, learned, restore
from nesht_jax.run.render import film
from nesht_jax.run.report import gather
from nesht_jax.run.sections import AlgorithmConfig, EvaluationConfig
from nesht_jax.run.sweep import sweep
from nesht_jax.run.train import train

TRIPWIRE = """
import pathlib
import gymnasium
import numpy as np

pathlib.Path(__file__).with_name("tripped").touch()


class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


gymnasium.register("Tripwire-v0", Env, max_episode_steps=3, disable_env_checker=True)
"""

TASK = "gymnasium/tripwire:Tripwire-v0"

CONFIG = Config(
    task=TASK,
    algorithm=AlgorithmConfig(num_members=2),
    evaluation=EvaluationConfig(every=1, episodes=2),
    generations=1,
)


def forget():
    """Makes this process one that has not imported the module."""
    sys.modules.pop("tripwire", None)
    gymnasium.registry.pop("Tripwire-v0", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the module, and the folder ``run`` of a run whose task names it."""
    home = tmp_path_factory.mktemp("home")
    (home / "tripwire.py").write_text(TRIPWIRE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        train(replace(CONFIG, out=str(home / "run")))
        forget()
    return home


@pytest.fixture
def run(home, monkeypatch):
    """The run, where the module could be imported and is not; ``tripped`` tells if it was."""
    monkeypatch.syspath_prepend(home)
    forget()
    (home / "tripped").unlink(missing_ok=True)
    yield home / "run"
    forget()


def tripped(run):
    return (run.parent / "tripped").exists() or "tripwire" in sys.modules


@pytest.mark.slow
def test_the_wire_trips(run):
    """Else the tests below could not fail."""
    assert not tripped(run)
    importlib.import_module("tripwire")
    assert tripped(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["eval", "render", "report", "export", "export --to=c", "train --resume"]
)
def test_a_command_refuses_it_and_says_how_to_trust(command, run, capsys):
    before = sorted(path.name for path in run.iterdir())
    assert main([*command.split(), str(run)]) == 2
    told = capsys.readouterr().err
    assert "would import the Python module 'tripwire'" in told and "--trust" in told
    assert told.count("\n") == 1
    assert not tripped(run) and sorted(path.name for path in run.iterdir()) == before


def test_one_such_run_among_others_is_refused(run, tmp_path):
    (tmp_path / "config.yaml").write_text("task: probe/linear")
    assert main(["report", str(tmp_path), str(run)]) == 2
    assert not tripped(run)


@pytest.mark.parametrize(
    "use",
    [
        load,
        partial(load, generation="best"),
        learned,
        restore,
        partial(evaluate_run, episodes=2),
        partial(evaluate_run, episodes=2, task="gymnasium/Pendulum-v1"),
        film,
        gather,
    ],
)
def test_python_refuses_it(use, run):
    with pytest.raises(ValueError, match="module 'tripwire'.*trust=True"):
        use(run)
    assert not tripped(run)


@pytest.mark.slow
def test_trust_is_taken_at_its_word(run, capsys):
    assert main(["eval", str(run), "--trust", "--episodes=2"]) == 0
    assert "3.0" in capsys.readouterr().out and tripped(run)
    forget()
    assert load(run, trust=True)(np.zeros(2)).shape == (1,)


def test_a_module_that_is_there_already_needs_no_trust(run):
    importlib.import_module("tripwire")
    assert load(run).task.name == TASK


def test_who_names_the_task_trusts_it(run, capsys):
    assert main(["train", f"--resume={run}", "--task=gymnasium/nowhere:Tripwire-v0"]) == 2
    assert "got task" in capsys.readouterr().err and not tripped(run)
    assert main(["train", f"--resume={run}", f"--task={TASK}"]) == 0
    assert tripped(run)
    told = " ".join(capsys.readouterr().out.split())
    assert f"--resume {run} --trust" in told and f"nesht eval {run} --trust" in told


def test_trust_on_resume(run):
    assert main(["train", f"--resume={run}", "--trust"]) == 0 and tripped(run)


@pytest.mark.slow
def test_a_task_of_ones_own_needs_no_trust(run, tmp_path, capsys):
    out = f"--out={tmp_path / 'mine'}"
    assert main(["train", str(run / "config.yaml"), out]) == 0 and tripped(run)
    forget()
    assert main(["train", TASK, "--trust", out]) == 2
    assert "--trust goes with --resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_goes_on_with_its_own_runs(run, tmp_path):
    (first,) = sweep([CONFIG], seeds=[0], folder=tmp_path)
    forget()
    (again,) = sweep([CONFIG], seeds=[0], folder=tmp_path)
    assert again[1].folder == first[1].folder


@pytest.mark.parametrize(
    ("task", "module"),
    [
        (TASK, "tripwire"),
        ("gymnasium/a.b:ns/Id-v0", "a.b"),
        ("gymnasium/ns/a:b:Id-v0", "ns/a:b"),
        ("gymnasium/ns/Id-v0", ""),
        ("envpool/Hopper-v5", ""),
    ],
)
def test_the_module_of_a_task(task, module):
    assert module_of(task) == module
