"""Configs: what a YAML file says is what a run gets, and nonsense is refused."""

import dataclasses
import inspect
import os
import warnings
from dataclasses import is_dataclass, replace
from itertools import product
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from nesht_jax.envs.tasks import make_task
from nesht_jax.es.clipup import clipup
from nesht_jax.es.shaping import best_directions, standardize
from nesht_jax.run.build import (
    Stream,
    build,
    build_policy,
    build_shaping,
    build_task,
    build_training,
    check_sparsity,
    stream,
)
from nesht_jax.run.config import DEFAULT_STEPS, Config
from nesht_jax.run.evaluate import make_evaluate_center, projected
from nesht_jax.run.fields import checked, leaves
from nesht_jax.run.names import synonym
from nesht_jax.run.optimizer import build_projection, optimizers
from nesht_jax.run.sections import (
    AlgorithmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    Section,
    SparsityConfig,
)
from nesht_jax.run.settings import make_config, read_command
from nesht_jax.run.yaml import config_of, dump, parse, read, read_config, write
from nesht_jax.sparse.distribution import erdos_renyi_kernel
from nesht_jax.sparse.top_k import num_kept

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
PRESETS = sorted((ROOT / "configs/preset").glob("*.yaml"))
TASKS = sorted(set(FILES) - set(PRESETS) - {ROOT / "configs/quickstart.yaml"})
DEFAULT = Config(task="probe/linear")
KEY = jax.random.key(0)


def read_words(*words, **options):
    return read_command([str(word) for word in words], options)[0]


def differences(given, default, prefix=""):
    """Dotted keys of a YAML mapping whose value equals the default: they should not be there."""
    for key, value in given.items():
        expected = getattr(default, key)
        if is_dataclass(expected):
            yield from differences(value, expected, f"{prefix}{key}.")
        elif value == (list(expected) if isinstance(expected, tuple) else expected):
            yield prefix + key


@pytest.mark.parametrize(
    "file", sorted(set(FILES) - set(PRESETS)), ids=lambda f: str(f.relative_to(ROOT))
)
def test_a_config_holds_only_what_differs_from_the_defaults(file):
    """A preset names all that its paper sets, so that it stays itself over other settings."""
    assert list(differences(read(file), DEFAULT)) == []


@pytest.mark.parametrize("file", sorted(set(FILES) - set(PRESETS)), ids=lambda f: f.stem)
def test_the_first_line_of_a_config_names_its_task(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"task: {read(file)['task']}"


@pytest.mark.parametrize(
    ("task", "preset"),
    list(product(TASKS, PRESETS)),
    ids=lambda v: str(getattr(v, "stem", v)),
)
def test_every_task_takes_every_preset(task, preset):
    config = read_words(task, preset, distractors=10)
    assert config.distractors == 10
    assert config.task == read(task)["task"]


def test_the_code_preset_is_the_published_code():
    config = read_words("Hopper-v5", "code-mujoco")
    assert config.algorithm == AlgorithmConfig(
        num_members=256,
        mirrored=False,
        alive_bonus=True,
        sigma=0.1,
        sigma_decay=0.99,
        shaping="centered_rank_by_order",
    )
    assert config.algorithm.sigma_decay_every == 50
    assert config.optimizer == OptimizerConfig("adam", 0.1, 0.0, {})
    assert config.sparsity == SparsityConfig(fraction=0.9, every=10, rule="stale_quantile")
    assert config.policy == PolicyConfig(normalization="observation", output="tanh", start="normal")
    assert config.generations == 1000 and config.evaluation == EvaluationConfig(10, 10)


def test_the_preset_of_clipup_has_the_settings_of_its_authors():
    """Those of pgpelib's train_walker2d.sh: all lengths are told by the largest step."""
    config = read_words("Walker2d-v5", "pgpe-clipup")
    size = sum(map(np.size, jax.tree.leaves(build(config).state.params)))
    largest, radius = 0.015, 15 * 0.015
    options = {"momentum": 0.9, "max_speed": largest}
    assert config.optimizer == OptimizerConfig("clipup", largest / 2, options=options)
    assert (size, config.algorithm.num_members) == (17 * 6 + 6, 100)
    assert config.algorithm.sigma == pytest.approx(radius / size**0.5, rel=0.005)
    assert config.algorithm.best_directions is None and not config.algorithm.alive_bonus
    assert config.policy == PolicyConfig(clip=np.inf, output="clip")


def test_dump_reads_back_to_itself(tmp_path):
    config = Config(
        task="probe/linear",
        policy=PolicyConfig(hidden=(8, 4)),
        optimizer=OptimizerConfig("sgd", 0.3, options={"momentum": 0.5}),
        sparsity=SparsityConfig(layers=("first",)),
        task_options={"a": 1, "b": "ü", "d": True, "e": 0.5, "f": [0.7, {"g": None}], "h": {}},
    )
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert read_config(tmp_path) == replace(config, out=str(tmp_path))


def test_options_win_over_files_and_later_files_over_earlier(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("task: probe/linear\ndistractors: 1\nsparsity: {fraction: 0.5, every: 3}")
    b.write_text("distractors: 2\nsparsity: {fraction: 0.6}\nalgorithm: {sigma: 1e-1}")
    config = read_words(a, b, algorithm={"sigma": 0.7})
    assert (config.distractors, config.algorithm.sigma) == (2, 0.7)
    assert (config.sparsity.fraction, config.sparsity.every) == (0.6, 3)


def test_a_whole_number_may_be_written_with_an_exponent():
    steps = checked(Config, "steps", 3e6)
    assert steps == 3_000_000 and isinstance(steps, int)
    with pytest.raises(ValueError, match="steps must be a whole number or null, got inf"):
        checked(Config, "steps", float("inf"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparsityConfig(fraction=1.0), r"sparsity.fraction must be in \[0, 1\), got 1.0"),
        (lambda: SparsityConfig(fraction=-0.1), r"got -0.1"),
        (lambda: SparsityConfig(every=0), "sparsity.every must be at least 1, got 0"),
        (lambda: SparsityConfig(rule="topk"), "sparsity.rule must be one of top_k, "),
        (lambda: SparsityConfig(method="selection", keep=3), "finds how many to keep"),
        (lambda: SparsityConfig(method="selection", rule="stale_quantile"), "and not with sel"),
        (lambda: SparsityConfig(method="selection", forget_moments=True), "and not with sel"),
        (lambda: SparsityConfig(method="selection", scope="erdos_renyi_kernel"), "and not with"),
        (lambda: AlgorithmConfig(num_members=7), "num_members must be even if mirrored, got 7"),
        (lambda: AlgorithmConfig(num_members=0), "algorithm.num_members must be at least 1"),
        (lambda: AlgorithmConfig(num_members=2**31), "algorithm.num_members must be below 2^31"),
        (lambda: AlgorithmConfig(num_members=True), "num_members must be a whole number, got True"),
        (lambda: AlgorithmConfig(sigma=0.0), "algorithm.sigma must be positive and finite, got 0"),
        (lambda: AlgorithmConfig(sigma=float("nan")), "positive and finite, got nan"),
        (lambda: AlgorithmConfig(action_noise=float("inf")), "finite and at least 0, got inf"),
        (lambda: AlgorithmConfig(best_directions=0), "best_directions must be at least 1, got 0"),
        (
            lambda: AlgorithmConfig(num_members=8, best_directions=5),
            "must be at most 4, the mirrored directions of 8 members, got 5",
        ),
        (
            lambda: AlgorithmConfig(num_members=8, mirrored=False, best_directions=1),
            "must be at most 0, the mirrored directions of 8 members, got 1",
        ),
        (lambda: AlgorithmConfig(alive_bonus=1), "alive_bonus must be true or false, got 1"),
        (
            lambda: PolicyConfig(start="ones"),
            "policy.start must be one of normal, zero, got 'ones'",
        ),
        (lambda: Config(task="a/b", steps=0), "steps must be at least 1, got 0"),
        (
            lambda: Config(task="a/b", steps=1.5),
            "steps must be a whole number or null, got 1.5",
        ),
        (lambda: Config(task="a/b", distractors=-1), "distractors must be at least 0, got -1"),
        (lambda: Config(task="a/b", horizon=0), "horizon must be at least 1, got 0"),
        (
            lambda: Config(task="a/b", horizon=9, horizon_growth=0.5),
            "horizon_growth must be finite and at least 1, got 0.5",
        ),
        (
            lambda: Config(task="a/b", horizon_growth=1.5),
            "horizon_growth needs horizon, the steps of the first episodes",
        ),
        (lambda: Config(task=3), "task must be text, got 3"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate must be positive"),
        (lambda: PolicyConfig(hidden=(4, 0)), "a width must be at least 1, got 0"),
        (lambda: PolicyConfig(hidden=4), r"policy.hidden must be a list, as \[64, 64\], got 4"),
    ],
)
def test_nonsense_is_refused_by_rule_and_value(make, message, unchecked):
    with pytest.raises(ValueError) as error:
        make()
    assert message.replace("\\", "") in str(error.value)


def test_one_sided_members_may_be_odd():
    assert AlgorithmConfig(num_members=7, mirrored=False).num_members == 7


def test_all_mirrored_directions_may_be_the_best():
    assert AlgorithmConfig(num_members=8, best_directions=4).best_directions == 4


def test_a_budget_of_steps_may_be_beyond_32_bits():
    assert Config(task="a/b", steps=10**12).step_limit == 10**12


@pytest.mark.parametrize(
    ("given", "steps", "generations"),
    [
        ({}, DEFAULT_STEPS, None),
        ({"steps": 500}, 500, None),
        ({"generations": 7}, None, 7),
        ({"steps": 500, "generations": 7}, 500, 7),
    ],
)
def test_a_run_ends_by_what_is_said_and_else_by_its_steps(given, steps, generations):
    config = Config(task="a/b", **given)
    assert config.step_limit == steps
    unlimited = config.last_generation >= 2**31 - 1
    assert unlimited if generations is None else config.last_generation == generations


def test_whole_numbers_are_numbers():
    config = config_of({"task": "a/b", "algorithm": {"sigma": 1}})
    assert isinstance(config.algorithm.sigma, float)


def test_numbers_of_numpy_and_paths_are_taken(unchecked):
    config = Config(task="probe/linear", seed=np.int64(3), out=Path("runs/mine"))
    assert config == Config(task="probe/linear", seed=3, out="runs/mine")
    assert type(config.seed) is int and type(config.out) is str
    algorithm = AlgorithmConfig(num_members=np.int64(4), sigma=np.float32(0.5))
    assert algorithm == AlgorithmConfig(num_members=4, sigma=0.5)
    assert "seed: 3\n" in dump(config)
    with pytest.raises(ValueError, match="seed must be a whole number, got"):
        Config(task="probe/linear", seed=np.float64(3.5))


def test_an_agent_of_more_steps_than_it_counts_is_refused():
    with pytest.raises(ValueError, match="an agent counts fewer than 2.31 steps, got 3000000000"):
        make_config("gymnax/CartPole-v1", "dqn", steps=3_000_000_000)
    assert make_config("gymnax/CartPole-v1", steps=3_000_000_000).steps == 3_000_000_000


@pytest.mark.parametrize("text", ["1e-2", "5e-2", "1E3", ".5"])
def test_numbers_are_written_as_people_write_them(text):
    assert parse(text, "here") == float(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold settings, as `task: suite/name`, but holds nothing"),
        ("- a", "must hold settings"),
        ("task: [", "is not YAML"),
        ("a: 1\na: 2", "is not YAML"),
        ("x: !!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_files_that_hold_no_settings_are_named(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="a.yaml") as error:
        read(tmp_path / "a.yaml")
    assert message in str(error.value)


def test_a_file_is_utf_8_and_may_say_so(tmp_path):
    (tmp_path / "a.yaml").write_bytes("# café\ntask: probe/linear\r\n".encode("utf-8-sig"))
    assert read(tmp_path / "a.yaml") == {"task": "probe/linear"}
    (tmp_path / "b.yaml").write_bytes("# caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match="b.yaml cannot be read: it is not UTF-8 text"):
        read(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    "changed",
    [
        {"horizon": 7},
        {"task_options": {"a": [1]}},
        {"algorithm": AlgorithmConfig(sigma=0.2)},
        {"algorithm": AlgorithmConfig(best_directions=3)},
        {"algorithm": AlgorithmConfig(alive_bonus=not DEFAULT.algorithm.alive_bonus)},
        {"algorithm": AlgorithmConfig(fall_cost=2)},
        {"sparsity": SparsityConfig(fraction=0.5)},
        {"optimizer": OptimizerConfig(options={"b1": 0.5})},
    ],
)
def test_no_two_settings_share_a_default_folder(changed):
    assert replace(DEFAULT, **changed).folder != DEFAULT.folder


def test_a_longer_run_is_the_same_run():
    assert replace(DEFAULT, generations=500).folder == DEFAULT.folder
    assert replace(DEFAULT, steps=500).folder == DEFAULT.folder
    assert replace(DEFAULT, track="wandb").folder == DEFAULT.folder
    sparse = replace(DEFAULT, sparsity=SparsityConfig(fraction=0.5))
    assert sparse.folder.name.startswith("probe-linear-x0-nesht-seed0-")


def test_streams_of_seeds_are_all_different():
    found = {stream(seed, which) for seed in range(100) for which in Stream}
    assert len(found) == 100 * len(Stream)


def experiment(**changes):
    config = replace(DEFAULT, distractors=3, algorithm=AlgorithmConfig(num_members=8))
    return build(replace(config, **changes))


BEST = AlgorithmConfig(num_members=8, shaping="standardize", best_directions=2)


@pytest.mark.slow
def test_best_directions_alone_make_the_update():
    """Of the other members no fitness matters."""
    made = experiment(algorithm=BEST)
    tell, fitness = jax.jit(made.algorithm.tell), jax.numpy.array([5.0, 1, 0, 9, 2, 2, -3, 4])
    after, info = tell(made.state, fitness)
    others, _ = tell(made.state, fitness.at[4:].set(jax.numpy.array([0.5, 1, -7, -8])))
    jax.tree.map(np.testing.assert_array_equal, after.params, others.params)
    shape = best_directions(standardize, 2)
    np.testing.assert_array_equal(
        build_shaping(replace(DEFAULT, algorithm=BEST))(fitness), shape(fitness)
    )
    _, every = experiment(algorithm=replace(BEST, best_directions=None)).algorithm.tell(
        made.state, fitness
    )
    assert info.gradient_norm > 0 and info.gradient_norm != every.gradient_norm


@pytest.mark.slow
def test_training_may_leave_out_the_alive_bonus_and_evaluations_hold_it():
    played = []
    for alive, fall_cost in ((True, 1), (False, 1), (False, 100)):
        algorithm = AlgorithmConfig(num_members=4, alive_bonus=alive, fall_cost=fall_cost)
        config = Config(task="probe/countdown", algorithm=algorithm)
        made = build(config)
        made = made._replace(task=replace(made.task, alive_bonus=0.5))
        evaluate = jax.jit(build_training(config, made))
        evaluation = evaluate(KEY, made.algorithm.population(made.state), made.state.moments)
        center, _ = make_evaluate_center(config, made)
        played.append((evaluation, center(made.state).returns))
    (paid, center), (bare, same_center), (dear, _) = played
    np.testing.assert_allclose(bare.fitness, paid.fitness - 0.5 * paid.steps, rtol=1e-6)
    np.testing.assert_array_equal(center, same_center)
    at = np.asarray(paid.terminated_at)[:, 0]
    missed = np.where(at > 0, np.maximum(100 - at, 0), 0)
    assert missed.any()
    np.testing.assert_allclose(dear.fitness, bare.fitness - 0.5 * missed, rtol=1e-6)


@pytest.mark.parametrize("start", ["normal", "zero"])
def test_the_last_layer_begins_as_it_is_told(start):
    params = experiment(policy=PolicyConfig(hidden=(4,), start=start)).state.params
    assert (params["layer1"]["kernel"] == 0).all() == (start == "zero")
    assert (params["layer0"]["kernel"] != 0).any()


def test_clipup_is_an_optimizer_whose_steps_have_one_length():
    chosen = OptimizerConfig("clipup", 0.3, options={"max_speed": 0.5})
    made = experiment(optimizer=chosen, sparsity=SparsityConfig("none"))
    tell, state, lengths = jax.jit(made.algorithm.tell), made.state, []
    for scale in (1.0, 1e6):
        after, _ = tell(state, scale * jax.numpy.arange(8.0))
        step = jax.tree.map(jax.numpy.subtract, after.params, state.params)
        lengths.append(float(optax.tree.norm(step)))
    np.testing.assert_allclose(lengths, 0.3, rtol=1e-4)


def test_the_horizon_grows_up_to_that_of_evaluations():
    grows = {"horizon": 100, "horizon_growth": 1.3, "horizon_growth_every": 50}
    made = experiment(**grows, evaluation=EvaluationConfig(horizon=200))
    assert made.horizon is not None and made.task.horizon == 200
    found = [int(made.horizon(jax.numpy.int32(g))) for g in (0, 49, 50, 100, 149, 150, 1000, 10**9)]
    assert found == [100, 100, 130, 169, 169, 200, 200, 200]
    assert experiment(horizon=100).horizon is None
    own = experiment(task="probe/countdown", **grows)
    assert own.horizon is not None and own.task.horizon == make_task("probe/countdown").horizon


def test_sigma_decays_as_published():
    decaying = AlgorithmConfig(num_members=8, sigma=0.1, sigma_decay=0.5, sigma_decay_every=50)
    made = experiment(algorithm=decaying)
    tell, fitness, state = jax.jit(made.algorithm.tell), jax.numpy.arange(8.0), made.state
    for generation in (0, 47, 48, 97, 98):
        t = generation + 1
        _, info = tell(state._replace(generation=jax.numpy.int32(generation)), fitness)
        assert np.isclose(info.sigma, 0.1 * 0.5 ** ((1 + t) // 50))


def test_weight_decay_pulls_towards_zero():
    """SGD and equal fitnesses: the step is the decay alone, -α λ θ."""
    chosen = OptimizerConfig("sgd", 0.5, weight_decay=0.1)
    made = experiment(optimizer=chosen, sparsity=SparsityConfig("none"))
    after, _ = made.algorithm.tell(made.state, jax.numpy.ones(8))
    expected = jax.tree.map(lambda p: p * (1 - 0.5 * 0.1), made.state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.params, expected)


@pytest.mark.parametrize(
    ("sparsity", "method"),
    [
        (SparsityConfig(fraction=0.0), "NES"),
        (SparsityConfig("none", fraction=0.5), "NES"),
        (SparsityConfig(fraction=0.5), "NESHT"),
        (SparsityConfig(keep=3), "NESHT"),
    ],
)
def test_a_run_that_cuts_no_weight_is_nes(sparsity, method):
    config = replace(DEFAULT, sparsity=sparsity)
    assert config.method == method
    assert (experiment(sparsity=sparsity).projection is None) == (method == "NES")


def zeros(tree):
    return sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(tree))


def test_the_projection_is_sparse_though_the_center_is_dense():
    made = experiment(sparsity=SparsityConfig(fraction=0.8, every=10))
    assert zeros(made.projection(jax.tree.map(lambda p: p + 1, made.state.params))) == 16


@pytest.mark.slow
def test_the_center_is_projected_from_the_first_thresholding_to_the_last():
    """Updates 3 and 6 threshold 20 weights and 1 bias to 5; the others move all that may."""
    made = experiment(sparsity=SparsityConfig(keep=5, begin=2, end=8, every=3))
    tell, fitness = jax.jit(made.algorithm.tell), jax.numpy.arange(8.0)
    state, zero = made.state, []
    for _ in range(9):
        state, _ = tell(state, fitness)
        played, sparsity = projected(made, state)
        zero.append((zeros(state.params), zeros(played)))
        assert sparsity == pytest.approx(zeros(played) / 21)
    assert zero == [(0, 0), (0, 0), (16, 16), (0, 16), (0, 16), *[(16, 16)] * 4]


@pytest.mark.parametrize("name", ["last", "layer1"])
def test_chosen_layers_alone_are_thresholded(name):
    made = experiment(
        sparsity=SparsityConfig(fraction=0.5, layers=(name,), exempt_bias=True),
        policy=PolicyConfig(hidden=(4,), start="normal"),
    )
    params = made.state.params
    sparse = made.projection(params)
    assert np.all(sparse["layer0"]["kernel"] == params["layer0"]["kernel"])
    assert np.sum(sparse["layer1"]["kernel"] == 0) == 2


@pytest.mark.slow
def test_the_last_layer_is_the_last_of_any_network():
    for hidden, last in (((), "layer0"), ((4,), "layer1"), ((4, 3), "layer2")):
        made = experiment(
            sparsity=SparsityConfig(fraction=0.5, layers=("last",), exempt_bias=True),
            policy=PolicyConfig(hidden=hidden),
        )
        sparse = made.projection(jax.tree.map(lambda p: p + 1, made.state.params))
        assert [name for name, layer in sparse.items() if zeros(layer)] == [last]


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no layer 'layer2'; did you mean layer0"):
        experiment(sparsity=SparsityConfig(fraction=0.5, layers=("layer2",)))


def test_a_policy_that_tells_of_no_layers_is_thresholded_as_a_whole():
    params = {"anything": jax.numpy.arange(10.0)}
    projection = build_projection(SparsityConfig(fraction=0.5), (), params)
    assert zeros(projection(params)) == 5
    with pytest.raises(ValueError, match="does not tell of its layers"):
        build_projection(SparsityConfig(fraction=0.5, layers=("last",)), (), params)
    with pytest.raises(ValueError, match="needs a policy that tells of its layers"):
        build_projection(SparsityConfig(fraction=0.5, scope="erdos_renyi_kernel"), (), params)


@pytest.mark.slow
def test_layers_keep_what_erdos_and_renyi_leave_them():
    made = experiment(
        sparsity=SparsityConfig(fraction=0.5, scope="erdos_renyi_kernel"),
        policy=PolicyConfig(hidden=(30, 4)),
    )
    sparse = made.projection(jax.tree.map(lambda p: p + 1, made.state.params))
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in sparse.items()}
    shapes = {f"{name}/kernel": kernel.shape for name, kernel in kernels.items()}
    weights = sum(kernel.size for kernel in kernels.values())
    expected = erdos_renyi_kernel(shapes, num_kept(weights, 0.5))
    kept = {f"{name}/kernel": np.count_nonzero(kernel) for name, kernel in kernels.items()}
    assert kept == expected and kept["layer0/kernel"] < 0.5 * kernels["layer0"].size
    assert all((layer["bias"] != 0).all() for layer in sparse.values())


def test_a_quantile_rule_knows_no_erdos_and_renyi():
    with pytest.raises(ValueError, match="goes with rule top_k, got signed_quantile"):
        SparsityConfig(scope="erdos_renyi_kernel", rule="signed_quantile")


def test_fewer_weights_than_actions_are_told():
    made = experiment(
        task="gymnasium/CartPole-v1", distractors=0, sparsity=SparsityConfig(fraction=0.9)
    )
    with pytest.warns(UserWarning, match="keeps 1 of 10 weights for 2 actions of .*CartPole"):
        check_sparsity(made)


@pytest.mark.parametrize("begin, every, told", [(0, 1, True), (0, 10, False), (10, 1, False)])
def test_a_thresholding_by_chance_is_told(begin, every, told):
    """Two directions an update, of more than a hundred weights."""
    sparsity = SparsityConfig(fraction=0.5, begin=begin, every=every)
    policy = PolicyConfig(hidden=(20,))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        config = replace(DEFAULT, policy=policy, sparsity=sparsity)
        check_sparsity(build(replace(config, algorithm=replace(config.algorithm, num_members=4))))
    found = [str(w.message) for w in heard if "mostly chance tells" in str(w.message)]
    assert len(found) == told, heard


def test_bounds_out_of_reach_are_told():
    config = replace(DEFAULT, task="gymnasium/Pendulum-v1", policy=PolicyConfig(output="tanh"))
    with pytest.warns(UserWarning, match="set policy.output: scale"):
        build_policy(config, build_task(config))


def test_a_policy_that_cannot_see_is_refused():
    config = replace(DEFAULT, task="probe/countdown")
    blind = replace(config, policy=PolicyConfig(normalization="observation"))
    with pytest.raises(ValueError, match="probe/countdown shows 2 features"):
        build(blind)


@pytest.mark.filterwarnings("ignore")  # of optax, about its own deprecated names
@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimizer_steps_or_says_why_not(name):
    try:
        made = experiment(optimizer=OptimizerConfig(name, 0.01))
    except ValueError as error:
        assert str(error).startswith(f"optimizer {name} cannot be used: ")
        return
    after = made.state
    for _ in range(2):  # rprop waits for a second gradient
        after, _ = made.algorithm.tell(after, jax.numpy.arange(8.0))
    before = made.state.params["layer0"]["kernel"]
    assert not np.array_equal(after.params["layer0"]["kernel"], before)


def test_optimizers_are_those_of_optax_and_clipup():
    assert {"adam", "sgd", "adamw", "rmsprop", "lion"} <= set(optimizers())
    assert optimizers()["clipup"] is clipup
    own = {"clipup"}
    assert all(
        make is getattr(optax, name) for name, make in optimizers().items() if name not in own
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (OptimizerConfig("adm"), "no optimizer 'adm'; did you mean adam"),
        (OptimizerConfig("adam", options={"b3": 0.9}), "adam has no 'b3'; did you mean b"),
        (OptimizerConfig("lookahead"), "lookahead"),
        (OptimizerConfig("clipupp"), "no optimizer 'clipupp'; did you mean clipup"),
        (
            OptimizerConfig("clipup", options={"speed": 1.0}),
            "clipup has no 'speed'; did you mean m",
        ),
    ],
)
def test_optimizers_that_optax_has_not_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        experiment(optimizer=chosen)


@pytest.mark.slow
def test_moments_may_be_forgotten_whatever_the_optimizer():
    for name in ("adam", "adafactor", "rmsprop"):
        forgetful = SparsityConfig(fraction=0.5, forget_moments=True)
        made = experiment(optimizer=OptimizerConfig(name, 0.01), sparsity=forgetful)
        _, info = made.algorithm.tell(made.state, jax.numpy.arange(8.0))
        assert info.sparsity == np.float32(10 / 21)


@pytest.mark.parametrize("part", Section.__subclasses__())
def test_every_option_has_help(part):
    text = inspect.getdoc(part)
    assert [f.name for f in dataclasses.fields(part) if f"\n    {f.name}: " not in text] == []


@pytest.mark.parametrize("name", ["lr", "env", "popsize", "noise", "slots", "threshold.sparsity"])
def test_common_names_are_ours_by_another_name(name):
    assert synonym(name) in leaves(Config)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    told = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: told.append(os.fstat(f).st_size) or sync(f))
    monkeypatch.setattr(os, "replace", lambda a, b: told.append(Path(b).name) or move(a, b))
    write(tmp_path / "config.yaml", "seed: 1")
    assert told == [len("seed: 1"), "config.yaml"]
