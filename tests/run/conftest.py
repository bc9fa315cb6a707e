"""Runs small enough for a test."""

import shutil
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from nesht_jax.run.config import Config
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SparsityConfig,
)
from nesht_jax.run.train import train

PROBE = Config(
    task="probe/linear",
    distractors=3,
    algorithm=AlgorithmConfig(num_members=256, sigma=0.1, shaping="centered_rank"),
    sparsity=SparsityConfig(fraction=0.7, every=4),
    policy=PolicyConfig(output="clip", start="normal"),
    optimizer=OptimizerConfig("adam", 0.1),
    evaluation=EvaluationConfig(every=4),
    generations=12,
    checkpoint_every=5,
)


@pytest.fixture
def probe(tmp_path):
    """A probe config with its run folder in a fresh place."""
    return replace(PROBE, out=str(tmp_path / "run"))


@pytest.fixture
def quiet():
    """A console that nobody sees."""
    return Console(file=StringIO())


@pytest.fixture(scope="module")
def probe_run(tmp_path_factory):
    """A finished run of the probe; do not change it."""
    config = replace(PROBE, out=str(tmp_path_factory.mktemp("runs") / "run"))
    return train(config, console=Console(file=StringIO()))


@pytest.fixture
def finished(probe, probe_run):
    """The config of a copy of that run, which a test may change."""
    shutil.copytree(probe_run.folder, probe.folder)
    return probe
