"""Runs whose sparsity is a selection: they find inputs, go on as they were, play what lives."""

from dataclasses import replace
from io import StringIO

import jax
import numpy as np
import pytest
from rich.console import Console
from test_train import bits, without_time

from nesht_jax import Config, load, train
from nesht_jax.run.build import build, check_sparsity
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SearchConfig,
    SparsityConfig,
)
from nesht_jax.run.sweep import sweep
from nesht_jax.types import center_of, mask_of, sparse_states

SELECTION = SparsityConfig(method="selection", unit="row", every=4, end=60, explore=0.2)

SELECTED = Config(
    task="probe/linear",
    distractors=5,
    algorithm=AlgorithmConfig(num_members=32, sigma=0.1),
    sparsity=SELECTION,
    optimizer=OptimizerConfig(learning_rate=0.02),
    evaluation=EvaluationConfig(every=10, episodes=10),
    generations=90,
)
"""Five inputs matter among thirty."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("selected") / "whole"
    return train(replace(SELECTED, out=str(out)), console=Console(file=StringIO()))


@pytest.mark.slow
def test_it_finds_the_inputs_that_matter(whole):
    assert "reads 5 of 5 sensors and 0 of 25 irrelevant inputs" in whole.reading.verdict()
    returns = [row.evaluation.mean for row in whole.rows if row.evaluation]
    assert returns[-1] > -0.1 * abs(returns[0])


@pytest.mark.slow
def test_it_finds_them_with_sigma_per_output(tmp_path, quiet):
    """An output has 30 inputs and a bias, of which ever fewer are tried."""
    algorithm = replace(SELECTED.algorithm, sigma=0.5, sigma_per="output")
    optimizer = OptimizerConfig(learning_rate=0.1)
    config = replace(SELECTED, algorithm=algorithm, optimizer=optimizer, out=str(tmp_path / "run"))
    built = build(config)
    members, center = built.algorithm.ask(built.state), built.state.params
    moved = np.asarray(members["layer0"]["bias"]) - np.asarray(center["layer0"]["bias"])
    assert moved.std() == pytest.approx(0.5 / 31**0.5, rel=0.5)
    result = train(config, console=quiet)
    assert "reads 5 of 5 sensors and 0 of 25 irrelevant inputs" in result.reading.verdict()


def test_its_first_policy_reads_nothing(whole):
    assert whole.rows[0].evaluation.sparsity == pytest.approx(30 / 31)  # but its bias


def test_the_policy_that_is_kept_is_the_center(whole):
    state = whole.state
    center = center_of(state.params, state.optimizer)["layer0"]["kernel"]
    np.testing.assert_array_equal(load(whole.folder).params["layer0"]["kernel"], center)


@pytest.mark.slow
def test_in_mid_search_what_does_not_live_is_not_played(tmp_path, quiet):
    cut = train(replace(SELECTED, generations=30, out=str(tmp_path / "cut")), console=quiet)
    params = cut.state.params
    mask = np.asarray(mask_of(cut.state.optimizer, params)["layer0"]["kernel"])
    kernel = np.asarray(params["layer0"]["kernel"])
    assert np.count_nonzero(kernel[~mask]) >= 15  # what is known of the others
    played = np.asarray(load(cut.folder).params["layer0"]["kernel"])
    np.testing.assert_array_equal(played, np.where(mask, kernel, 0))


@pytest.mark.slow
@pytest.mark.bits
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(whole, tmp_path, quiet):
    """Cut between two decisions."""
    cut = replace(SELECTED, generations=23, out=str(tmp_path / "cut"))
    train(cut, console=quiet)
    resumed = train(replace(cut, generations=90), resume=True, console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert without_time(resumed.rows)[24:] == without_time(whole.rows)[24:]


def test_both_evaluations_of_a_checkpoint_are_of_the_center(whole):
    found = evaluate_run(whole.folder, episodes=5)
    assert found.center == found.thresholded
    assert found.center_sparsity == found.thresholded_sparsity


@pytest.mark.slow
@pytest.mark.bits
def test_seeds_side_by_side_have_the_bits_of_the_run_alone(whole, tmp_path, quiet):
    found = list(sweep([SELECTED], seeds=[1, 0], folder=tmp_path, console=quiet))
    assert bits(found[-1][1].state) == bits(whole.state)


@pytest.mark.parametrize("unit", ["row", "weight"])
def test_of_a_network_the_first_layer_is_selected(unit):
    config = replace(
        SELECTED, policy=PolicyConfig(hidden=(4,)), sparsity=replace(SELECTION, unit=unit)
    )
    state = build(config).state
    (sparse,) = sparse_states(state.optimizer)
    assert not sparse.mask["layer0"]["kernel"].any()
    assert all(leaf.all() for leaf in jax.tree.leaves(sparse.mask["layer1"]))
    assert sparse.mask["layer0"]["bias"].all() == (unit == "row")


def test_little_power_is_told():
    made = build(replace(SELECTED, distractors=20_000))
    with pytest.warns(UserWarning, match="sparsity.end, or sparsity.method none"):
        check_sparsity(made)


@pytest.mark.slow
def test_members_at_the_center_of_a_search_play_what_lives():
    """An architecture is searched too: members of the unperturbed center have zeros elsewhere."""
    search = SearchConfig(space=("edges",), edges=10, num_center=4)
    experiment = build(replace(SELECTED, search=search))
    member = experiment.algorithm.member(experiment.state, 33)
    assert not np.asarray(member["layer0"]["kernel"]).any()
