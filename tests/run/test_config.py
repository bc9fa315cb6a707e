"""Configs: what a YAML file says is what a run gets, and nonsense is refused."""

import inspect
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import yaml

from nesht_jax.density import erdos_renyi_kernel
from nesht_jax.nesht import realised_sparsity
from nesht_jax.network import CONVOLUTIONS
from nesht_jax.run.build import build_algorithm, build_policy, thresholded
from nesht_jax.run.cli import _train_parser
from nesht_jax.run.config import (
    Config,
    OptimizerConfig,
    PolicyConfig,
    ThresholdConfig,
    dump,
    from_arguments,
    optimizers,
    read_config,
)
from nesht_jax.threshold import num_kept

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
PRESETS = sorted((ROOT / "configs/preset").glob("*.yaml"))
TASKS = sorted(set(FILES) - set(PRESETS) - {ROOT / "configs/quickstart.yaml"})


def read(*files, **options):
    flags = [f"--config={f}" for f in files] + [f"--{k}={v}" for k, v in options.items()]
    parser = _train_parser()
    return from_arguments(parser, parser.parse_args(flags))


def differences(given, default, prefix=""):
    """Dotted keys of a YAML mapping whose value equals the default: they should not be there."""
    for key, value in given.items():
        expected = getattr(default, key)
        if is_dataclass(expected):
            yield from differences(value, expected, f"{prefix}{key}.")
        elif value == (list(expected) if isinstance(expected, tuple) else expected):
            yield prefix + key


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_config_holds_only_what_differs_from_the_defaults(file):
    assert list(differences(yaml.safe_load(file.read_text()), Config())) == []


@pytest.mark.parametrize(
    ("task", "preset"),
    list(product(TASKS, PRESETS)),
    ids=lambda v: str(getattr(v, "stem", v)),
)
def test_every_task_takes_every_preset(task, preset):
    config = read(task, preset, noise=10)
    assert config.noise == 10
    assert config.task == yaml.safe_load(task.read_text())["task"]


@pytest.mark.parametrize(
    "file", [f for f in FILES if "leaves" in f.read_text()], ids=lambda f: f.stem
)
def test_of_a_network_for_games_the_last_layer_is_thresholded(file):
    config = read(file)
    network = config.policy
    last = len(CONVOLUTIONS[network.convolutions]) + len(network.hidden)
    assert network.convolutions == "dqn2013"
    assert config.threshold.leaves == (f"layer{last}/kernel",)


def test_the_code_preset_is_the_published_code():
    config = read(ROOT / "configs/envpool/hopper.yaml", ROOT / "configs/preset/code-mujoco.yaml")
    assert not config.mirrored and config.members == 256 and config.rollouts == 1
    assert (config.sigma, config.sigma_decay, config.sigma_decay_every) == (0.1, 0.99, 50)
    assert config.shaping == "centered_rank_by_order"
    assert config.optimizer == OptimizerConfig("adam", 0.1, 0.0, {})
    assert config.threshold == ThresholdConfig(0.9, every=10, rule="stale_quantile")
    assert config.policy == PolicyConfig(normalization="observation", output="tanh")
    assert (config.generations, config.evaluate_every, config.evaluate_episodes) == (1000, 10, 10)


def test_dump_reads_back_to_itself(tmp_path):
    config = Config(
        task="probe/linear",
        policy=PolicyConfig(hidden=(8, 4)),
        optimizer=OptimizerConfig("sgd", 0.3, options={"momentum": 0.5}),
        threshold=ThresholdConfig(leaves=("layer0/kernel",)),
        task_options={"a": 1, "b": "c", "d": True, "e": 0.5},
    )
    (tmp_path / "config.yaml").write_text(dump(config))
    assert read_config(tmp_path) == replace(config, out=str(tmp_path))


def test_options_win_over_files_and_later_files_over_earlier(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("noise: 1\nsigma: 0.3\nthreshold: {sparsity: 0.5, every: 3}")
    b.write_text("noise: 2\nthreshold: {sparsity: 0.6}")
    config = read(a, b, sigma=0.7)
    assert (config.noise, config.sigma) == (2, 0.7)
    assert (config.threshold.sparsity, config.threshold.every) == (0.6, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThresholdConfig(sparsity=1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: ThresholdConfig(sparsity=-0.1), r"got -0.1"),
        (lambda: ThresholdConfig(every=0), "threshold.every must be at least 1, got 0"),
        (lambda: Config(members=7), "members must be even if mirrored, got 7"),
        (lambda: Config(members=0), "members must be at least 1"),
        (lambda: Config(noise=-1), "noise must not be negative, got -1"),
        (lambda: Config(sigma=0.0), "sigma must be positive, got 0"),
        (lambda: Config(sigma=float("nan")), "sigma must be positive, got nan"),
        (lambda: Config(horizon=0), "horizon must be at least 1 or null, got 0"),
        (lambda: OptimizerConfig("adm"), "no optimizer 'adm'; did you mean adam"),
        (lambda: OptimizerConfig(options={"b3": 0.9}), "adam has no 'b3'"),
        (lambda: PolicyConfig(hidden=(4, 0)), "a width must be at least 1, got 0"),
    ],
)
def test_nonsense_is_refused_by_rule_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_sided_members_may_be_odd():
    assert Config(members=7, mirrored=False).members == 7


def setup(**changes):
    config = replace(Config(task="probe/linear", noise=3, members=8), **changes)
    from nesht_jax.envs import task_spec

    spec = task_spec(config.task)
    return config, *build_algorithm(config, spec, build_policy(config, spec))


def test_sigma_decays_as_published():
    config, algorithm, state = setup(sigma_decay=0.5, sigma_decay_every=50)
    tell, fitness = jax.jit(algorithm.tell), jax.numpy.arange(8.0)
    for generation in (0, 47, 48, 97, 98):
        t = generation + 1
        _, info = tell(state._replace(generation=jax.numpy.int32(generation)), fitness)
        assert np.isclose(info.sigma, 0.1 * 0.5 ** ((1 + t) // 50))


def test_weight_decay_pulls_towards_zero():
    """SGD and equal fitnesses: the step is the decay alone, -α λ θ."""
    chosen = OptimizerConfig("sgd", 0.5, weight_decay=0.1)
    _, algorithm, state = setup(optimizer=chosen, threshold=ThresholdConfig(sparsity=0.0))
    after, _ = algorithm.tell(state, jax.numpy.ones(8))
    expected = jax.tree.map(lambda p: p * (1 - 0.5 * 0.1), state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.params, expected)


def test_thresholded_is_sparse_though_the_centre_is_dense():
    config, _, state = setup(threshold=ThresholdConfig(sparsity=0.8, every=10))
    sparse = thresholded(config, jax.tree.map(lambda p: p + 1, state.params))
    assert np.isclose(realised_sparsity(sparse), 16 / 21)


def test_chosen_leaves_alone_are_thresholded():
    config, *_, state = setup(
        threshold=ThresholdConfig(0.5, leaves=("layer1/kernel",)),
        policy=PolicyConfig(hidden=(4,), output="clip"),
    )
    sparse = thresholded(config, state.params)
    assert np.all(sparse["layer0"]["kernel"] == state.params["layer0"]["kernel"])
    assert np.sum(sparse["layer1"]["kernel"] == 0) == 2
    with pytest.raises(ValueError, match="no weights 'layer2/kernel'; did you mean layer"):
        setup(threshold=ThresholdConfig(leaves=("layer2/kernel",)))


def test_layers_keep_what_erdos_and_renyi_leave_them():
    config, *_, state = setup(
        threshold=ThresholdConfig(0.5, scope="erdos_renyi_kernel"),
        policy=PolicyConfig(hidden=(30, 4), output="clip"),
    )
    sparse = thresholded(config, jax.tree.map(lambda p: p + 1, state.params))
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in sparse.items()}
    shapes = {f"{name}/kernel": kernel.shape for name, kernel in kernels.items()}
    weights = sum(kernel.size for kernel in kernels.values())
    expected = erdos_renyi_kernel(shapes, num_kept(weights, 0.5))
    kept = {f"{name}/kernel": np.count_nonzero(kernel) for name, kernel in kernels.items()}
    assert kept == expected and kept["layer0/kernel"] < 0.5 * kernels["layer0"].size
    assert all((layer["bias"] != 0).all() for layer in sparse.values())


def test_a_quantile_rule_knows_no_erdos_and_renyi():
    threshold = ThresholdConfig(scope="erdos_renyi_kernel", rule="signed_quantile")
    with pytest.raises(ValueError, match="goes with rule top_k, got signed_quantile"):
        setup(threshold=threshold)


@pytest.mark.filterwarnings("ignore")  # of optax, about its own deprecated names
@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimizer_steps_or_says_why_not(name):
    try:
        _, algorithm, state = setup(optimizer=OptimizerConfig(name, 0.01))
    except ValueError as error:
        assert str(error).startswith(f"optimizer {name} cannot be used: ")
        return
    after, _ = algorithm.tell(state, jax.numpy.arange(8.0))
    assert not np.array_equal(after.params["layer0"]["kernel"], state.params["layer0"]["kernel"])


def test_optimizers_are_those_of_optax():
    assert {"adam", "sgd", "adamw", "rmsprop", "lion"} <= set(optimizers())
    assert all(make is getattr(optax, name) for name, make in optimizers().items())


@pytest.mark.parametrize("part", [Config, PolicyConfig, OptimizerConfig, ThresholdConfig])
def test_every_option_has_help(part):
    text = inspect.getdoc(part)
    assert [f.name for f in fields(part) if f"\n    {f.name}: " not in text] == []
