"""A search in a run: resumed, evaluated, loaded, reported, refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_train import bits, without_time

from nesht_jax import load, train
from nesht_jax.run.architecture import build_search
from nesht_jax.run.build import build, build_policy, build_task
from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.evaluate import evaluate_run
from nesht_jax.run.optimizer import build_projection
from nesht_jax.run.policies import read_arrays
from nesht_jax.run.reading import size, wiring
from nesht_jax.run.report import gather
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    SearchConfig,
    SparsityConfig,
)

SEARCHED = Config(
    task="probe/linear",
    distractors=3,
    algorithm=AlgorithmConfig(num_members=20, sigma=0.1),
    search=SearchConfig(space=("edges",), edges=9, num_center=10),
    policy=PolicyConfig(hidden=(4,), start="normal"),
    optimizer=OptimizerConfig("adam", 0.05),
    evaluation=EvaluationConfig(every=4, episodes=3),
    generations=9,
    checkpoint_every=5,
)
PG = SearchConfig(("mask", "activations"), "policy_gradient", every=2, samples=7, target=40)


SEARCHES = {
    "evolution": SEARCHED,
    "policy gradient": replace(SEARCHED, search=PG),
    "random": replace(SEARCHED, search=SearchConfig(("colors",), "random", num_center=2)),
    "outside JAX": replace(
        SEARCHED, task="gymnasium/CartPole-v1", search=replace(SEARCHED.search, edges=30)
    ),
    "masked": replace(
        SEARCHED, search=SearchConfig(), policy=PolicyConfig(kernel="masked", gate_cost=0.5)
    ),
    "with hard thresholding": replace(SEARCHED, sparsity=SparsityConfig(fraction=0.5, every=2)),
}


@pytest.mark.bits
@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy gradient", "outside JAX"])
def test_a_resumed_search_is_the_uninterrupted_one_bit_for_bit(name, tmp_path, quiet):
    config = SEARCHES[name]
    whole = train(replace(config, out=str(tmp_path / "whole")), console=quiet)
    cut = replace(config, out=str(tmp_path / "cut"), generations=6)
    train(cut, console=quiet)
    resumed = train(replace(cut, generations=9), resume=True, console=quiet)
    assert bits(resumed.state) == bits(whole.state)
    assert without_time(resumed.rows)[7:] == without_time(whole.rows)[7:]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished search; do not change it."""
    search = replace(SEARCHED.search, space=("edges", "activations"))
    folder = tmp_path_factory.mktemp("search") / "run"
    return train(replace(SEARCHED, search=search, out=str(folder)))


@pytest.mark.slow
def test_what_is_loaded_is_the_center_with_the_best_architecture(run):
    policy = load(run.folder)
    structure, controller = build(run.config).search
    best = controller.best(run.state.search)
    expected = structure.materialize(best, run.state.params)
    jax.tree.map(np.testing.assert_array_equal, policy.params, expected)
    kernels = [np.asarray(policy.params[f"layer{n}"]["kernel"]) for n in (0, 1)]
    assert sum(np.count_nonzero(kernel) for kernel in kernels) == 9
    x = np.linspace(-1, 1, 20, dtype=np.float32)
    assert np.isfinite(policy(x)).all()


@pytest.mark.slow
def test_every_evaluation_kept_its_policy_and_what_was_proposed(run):
    arrays = read_arrays(run.folder)
    assert arrays["generation"].tolist() == [0, 4, 8, 9]
    np.testing.assert_allclose(arrays["edges"].sum(1), 9, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, load(run.folder, 9).params, load(run.folder).params)
    assert arrays["params/activation0/choice"].shape == (4, 4)


@pytest.mark.slow
def test_the_metrics_tell_of_the_search(run):
    for row in run.rows[1:]:
        assert row.edges == 9 and 2 <= row.distinct_architectures <= 30
        assert np.isfinite(row.center_fitness)
    entries = 20 * 4 + 4
    sparsity = run.rows[-1].evaluation.sparsity
    assert sparsity == pytest.approx((entries - 9) / (entries + 5))  # biases live


@pytest.mark.slow
def test_an_evaluation_of_the_run_is_of_that_policy(run):
    found = evaluate_run(run.folder, episodes=5)
    assert found.center == found.thresholded
    assert found.thresholded_sparsity == pytest.approx(run.rows[-1].evaluation.sparsity)


@pytest.mark.slow
def test_its_page_is_gathered(run):
    page = gather(run.folder, episodes=2)
    assert page.wiring.startswith("data:image/png;base64,") and page.size == run.size
    assert page.pruned[-1].k == 9 + np.count_nonzero(
        [*run.state.params["layer0"]["bias"], *run.state.params["layer1"]["bias"]]
    )


@pytest.mark.slow
def test_its_size_and_its_pictures_are_of_what_it_reads(run):
    policy = load(run.folder)
    small, dense = size(run.config, policy.policy, policy.params)
    assert (small.weights, small.floats, dense.floats) == (9, 14, 89)
    assert small.bits_with_positions == 32 * 14 + 9 * 7
    assert run.size.startswith("9 weights in 448 bits with biases (511 with positions)")
    wires = wiring(run.config, policy.task, policy.policy, policy.params)
    assert wires.living == 9 and wires.num_edges == 84
    assert len(wires.names()) == 84 and wires.names()[-1].endswith("→ action 0")
    for name in ("architecture.png", "search.png"):
        with Image.open(run.folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.slow
def test_nothing_is_added_where_nothing_is_searched(tmp_path, quiet):
    config = replace(SEARCHED, search=SearchConfig(), generations=2, out=str(tmp_path / "run"))
    done = train(config, console=quiet)
    assert done.state.search is None and done.size == ""
    assert done.rows[-1].edges is None
    assert not (done.folder / "architecture.png").exists()
    assert "edges" not in read_arrays(done.folder)


@pytest.mark.slow
def test_what_is_behind_a_closed_gate_is_not_read(tmp_path, quiet):
    """W · sigmoid(Γ/α) is near 0 there, not 0."""
    policy = PolicyConfig(hidden=(4,), kernel="masked", start="normal")
    config = replace(SEARCHED, search=SearchConfig(), policy=policy, out=str(tmp_path / "run"))
    done = train(config, console=quiet)
    gates = [np.asarray(done.state.params[f"layer{n}"]["gate"]) > 0 for n in (0, 1)]
    kernels = [load(done.folder).params[f"layer{n}"]["kernel"] for n in (0, 1)]
    for gate, kernel in zip(gates, kernels, strict=True):
        np.testing.assert_array_equal(np.asarray(kernel) != 0, gate)
    entries, opened = 84, sum(int(gate.sum()) for gate in gates)
    assert done.rows[-1].evaluation.sparsity == pytest.approx((entries - opened) / (entries + 5))


@pytest.mark.slow
def test_evolution_may_be_told_of_one_member(tmp_path, quiet):
    few = replace(SEARCHED, search=replace(SEARCHED.search, samples=1), generations=2)
    assert train(replace(few, out=str(tmp_path)), console=quiet).state.generation == 2


@pytest.mark.parametrize("unit", ["weight", "row"])
def test_gates_do_not_compete_with_weights(unit):
    config = replace(
        SEARCHES["masked"],
        policy=PolicyConfig(hidden=(4,), kernel="masked", start="normal"),
        sparsity=SparsityConfig(keep=2, unit=unit, every=1, layers=("first",)),
    )
    task = build_task(config)
    policy = build_policy(config, task)
    search = build_search(config, task, policy)
    assert search is not None
    params = search.structure.init(jax.random.key(0), policy.init(jax.random.key(1)))
    projection = build_projection(config.sparsity, policy.layers, params)
    assert projection is not None
    first, before = projection(params)["layer0"], params["layer0"]
    np.testing.assert_array_equal(first["gate"], before["gate"])
    lives = np.asarray(first["kernel"]) != 0
    assert np.count_nonzero(lives if unit == "weight" else lives.any(1)) == 2


@pytest.mark.slow
def test_thresholding_goes_with_a_search(tmp_path, quiet):
    """What H_k zeroes is dead in every architecture."""
    sparsity = SparsityConfig(fraction=0.5, every=1, exempt_bias=True)
    config = replace(SEARCHED, sparsity=sparsity, out=str(tmp_path / "run"))
    done = train(config, console=quiet)
    kernels = [done.state.params[f"layer{n}"]["kernel"] for n in (0, 1)]
    assert sum(int(jnp.count_nonzero(kernel)) for kernel in kernels) == 42
    assert sum(np.count_nonzero(x) for x in load(done.folder).params["layer0"]["kernel"]) <= 9


REFUSED = {
    "algorithm.rank must be null": ["--algorithm.rank", "1"],
    "must be at most 20, the entries of the policy's kernels, got 21": ["--search.edges", "21"],
    "must have 1 to 20 colors, got 21": ["--search.space", "[colors]", "--search.colors", "21"],
    "so 4 members, got 2": ["--algorithm.num_members", "2"],
    "needs hidden layers: set policy.hidden": ["--search.space", "[activations]"],
    "edges and mask both say": ["--search.space", "[edges, mask]"],
    "search.samples must be at most 32": ["--search.samples", "33"],
    "search.samples must be at least 2, got 1": [
        "--search.controller",
        "policy_gradient",
        "--search.samples",
        "1",
    ],
    "have no shape to keep a share by": [
        *("--search.space", "[colors]", "--policy.hidden", "[4]"),
        *("--sparsity.fraction", "0.5", "--sparsity.scope", "erdos_renyi_kernel"),
    ],
    "shares weights between layers": [
        *("--search.space", "[colors]", "--policy.hidden", "[4]"),
        *("--sparsity.fraction", "0.5", "--sparsity.layers", "[first]"),
    ],
    "or the controller never learns, got 9": ["--search.every", "9", "--generations", "8"],
    "search.edges must be at least 1, got 0": ["--search.edges", "0"],
    "shares the weights of dense kernels": [
        "--search.space",
        "[colors]",
        "--policy.kernel",
        "toeplitz",
    ],
    "have no rows of their own": [
        "--search.space",
        "[colors]",
        "--sparsity.unit",
        "row",
        "--sparsity.keep",
        "3",
    ],
    "policy.gate_cost is for kernel masked, got dense": ["--policy.gate_cost", "0.5"],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "probe/linear", "--distractors", "3", "--search.space", "[edges]"]
    assert main([*words, "--search.edges", "5", *REFUSED[sentence]]) == 2
    told = capsys.readouterr().err
    assert sentence in " ".join(told.split())
    assert "Traceback" not in told and not any(tmp_path.iterdir())
