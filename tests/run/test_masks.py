"""Sparse training in a run: masks, resumed, side by side with other seeds, evaluated, refused."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_train import bits, without_time

from nesht_jax import load, train
from nesht_jax.run.build import build
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SparsityConfig,
)
from nesht_jax.run.sweep import sweep
from nesht_jax.types import mask_of, support_of

MASKED = Config(
    task="probe/linear",
    distractors=3,
    algorithm=AlgorithmConfig(num_members=20, sigma=0.1),
    sparsity=SparsityConfig("set", fraction=0.75, scope="erdos_renyi_kernel", every=2, drop=0.5),
    policy=PolicyConfig(hidden=(4,), start="normal"),
    optimizer=OptimizerConfig("adam", 0.05),
    evaluation=EvaluationConfig(every=4, episodes=3),
    generations=9,
    checkpoint_every=5,
)
KEPT = 21
"""A quarter of the 20 x 4 + 4 weights of the kernels."""


def masked(**changes):
    return replace(MASKED, sparsity=replace(MASKED.sparsity, **changes))


METHODS = {
    "static": masked(method="static", explore=0.0),
    "set": masked(),
    "rigl": masked(method="rigl", explore=0.0, scope="all"),
    "pruning": masked(method="pruning", end=7, scope="layer"),
}


@pytest.mark.slow
@pytest.mark.bits
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, quiet):
    config = METHODS["rigl"]
    whole = train(replace(config, out=str(tmp_path / "whole")), console=quiet)
    # "end" may not lie beyond the run: it is cut by on_evaluation, after generation 4
    cut = replace(config, out=str(tmp_path / "cut"))
    train(cut, console=quiet, on_evaluation=lambda row: row.generation == 4)
    resumed = train(cut, resume=True, console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert without_time(resumed.rows)[5:] == without_time(whole.rows)[5:]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["set", "rigl", "pruning"])
def test_a_run_ends_with_as_many_weights_as_it_keeps(method, tmp_path, quiet):
    whole = train(replace(METHODS[method], out=str(tmp_path / "whole")), console=quiet)
    kernels = [leaf["kernel"] for leaf in load(whole.folder).params.values()]
    assert sum(np.count_nonzero(kernel) for kernel in kernels) == KEPT
    alive = 1 - KEPT / 84
    assert whole.rows[-1].evaluation.sparsity == pytest.approx(84 * alive / 89)


@pytest.mark.slow
@pytest.mark.bits
def test_seeds_side_by_side_have_their_own_masks_to_the_bits_of_the_run_alone(tmp_path, quiet):
    config = METHODS["set"]
    list(sweep([config], seeds=[0, 1], folder=tmp_path / "both", console=quiet))
    (folder,) = [f for f in (tmp_path / "both").iterdir() if "seed1" in f.name]
    alone = train(replace(config, seed=1, out=str(tmp_path / "alone")), console=quiet)
    jax.tree.map(np.testing.assert_array_equal, load(folder).params, load(alone.folder).params)


@pytest.mark.slow
def test_a_run_begins_as_sparse_as_it_goes_on():
    for method in ("static", "set", "rigl"):
        state = build(METHODS[method]).state
        kernels = [leaf["kernel"] for leaf in state.params.values()]
        assert sum(np.count_nonzero(kernel) for kernel in kernels) == KEPT


def test_two_seeds_draw_two_masks():
    states = [build(replace(METHODS["static"], seed=seed)).state for seed in (0, 1)]
    masks = [mask_of(s.optimizer, s.params)["layer0"]["kernel"] for s in states]
    assert (masks[0] != masks[1]).any()


def test_explore_says_whether_the_dead_are_perturbed():
    for explore, all_move in ((0.0, False), (1.0, True)):
        state = build(masked(explore=explore)).state
        support = support_of(state.optimizer, state.params)
        assert (support is None) == all_move


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("static", "NES-static"),
        ("set", "NES-SET"),
        ("rigl", "NES-RigL"),
        ("pruning", "NES-pruning"),
    ],
)
def test_its_name(method, name):
    assert METHODS[method].method == name
    assert replace(METHODS[method], sparsity=SparsityConfig(method, end=5)).method == "NES"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("set --sparsity.unit row", "sparsity.method set goes with unit weight and rule top_k"),
        ("rigl --sparsity.explore 0.1", "takes sparsity.explore 0 or 1, got 0.1"),
        ("pruning", "sparsity.method pruning needs sparsity.end, its last update"),
        (
            "pruning --sparsity.end 10 --sparsity.every 2",
            "sparsity.end must be below the 9 generations, got 10",
        ),
        ("set --sparsity.every 10", "sparsity.every must be at most the 9 generations, got 10"),
        ("set --sparsity.drop 1.5", "sparsity.drop must be in [0, 1], got 1.5"),
        ("set --sparsity.forget_moments true", "always forgets moments"),
        ("set --policy.kernel toeplitz", "sparsity.method set is for plain dense kernels"),
        (
            "static --policy.hidden [3] --sparsity.fraction 0.99 --sparsity.scope layer",
            "to keep 1 weights leaves layer1/kernel none: lower the sparsity",
        ),
        (
            "static --policy.hidden [3,2] --sparsity.layers [layer0,layer1]",
            "sparsity.layers: some of several layers cannot share scope all",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    words = (
        f"train --task probe/linear --generations 9 --sparsity.fraction 0.5 --out {out} "
        f"--sparsity.method {options}"
    )
    assert main(words.split()) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert sentence in error and not out.exists()
