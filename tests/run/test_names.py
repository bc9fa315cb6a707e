"""What the words of the command line mean: tasks, configs, options of other people."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from nesht_jax import make_config
from nesht_jax.envs import catalog
from nesht_jax.run import names

HEAVY = {"jax", "mujoco", "envpool", "brax", "gymnax", "mujoco_playground", "gymnasium", "optax"}


@pytest.fixture
def only(monkeypatch):
    """Makes some suites, or all, the ones that are installed."""

    def install(*suites):
        monkeypatch.setattr(names.catalog, "installed", lambda suite: suite in suites)

    install(*catalog.SUITES)
    return install


@pytest.mark.parametrize(
    ("given", "on_cpu", "on_accelerator"),
    [
        ("Hopper-v5", "envpool/Hopper-v5", "mjx/hopper"),
        ("hopper", "envpool/Hopper-v5", "mjx/hopper"),
        ("half_cheetah", "envpool/HalfCheetah-v5", "mjx/halfcheetah"),
        ("HALF-CHEETAH-V5", "envpool/HalfCheetah-v5", "mjx/halfcheetah"),
        ("InvertedPendulum", "envpool/InvertedPendulum-v5", "mjx/inverted_pendulum"),
        ("Hopper-v4", "envpool/Hopper-v4", "envpool/Hopper-v4"),
        ("CartPole-v1", "envpool/CartPole-v1", "gymnax/CartPole-v1"),
        ("CartPole-v0", "gymnasium/CartPole-v0", "gymnasium/CartPole-v0"),
        ("cartpole", "envpool/CartPole-v1", "gymnax/CartPole-v1"),
        ("lunar_lander", "envpool/LunarLander-v3", "envpool/LunarLander-v3"),
        ("Pong-v5", "envpool/Pong-v5", "envpool/Pong-v5"),
        ("CartpoleSwingup", "playground/CartpoleSwingup", "playground/CartpoleSwingup"),
        ("catch_bsuite", "gymnax/Catch-bsuite", "gymnax/Catch-bsuite"),
        ("linear", "probe/linear", "probe/linear"),
        ("phys2d/CartPole-v1", "gymnasium/phys2d/CartPole-v1", "gymnasium/phys2d/CartPole-v1"),
        ("mine:Mine-v0", "gymnasium/mine:Mine-v0", "gymnasium/mine:Mine-v0"),
        ("mine:ns/Mine-v0", "gymnasium/mine:ns/Mine-v0", "gymnasium/mine:ns/Mine-v0"),
    ],
)
def test_a_bare_name_is_a_task_of_the_best_suite(only, given, on_cpu, on_accelerator):
    assert names.resolve_task(given, accelerator=False).task == on_cpu
    assert names.resolve_task(given, accelerator=True).task == on_accelerator


def test_the_other_suites_are_told_best_first(only):
    assert names.resolve_task("hopper", accelerator=False) == names.Resolution(
        "envpool/Hopper-v5", ("gymnasium/Hopper-v5", "mjx/hopper", "brax/hopper")
    )
    # brax has no versions, so its hopper is not Hopper-v5
    assert names.resolve_task("Hopper-v5", accelerator=True) == names.Resolution(
        "mjx/hopper", ("envpool/Hopper-v5", "gymnasium/Hopper-v5")
    )


def test_only_installed_suites_are_chosen(only):
    only("gymnasium", "mjx", "probe")
    assert names.resolve_task("Hopper-v5", accelerator=False) == names.Resolution(
        "gymnasium/Hopper-v5", ("mjx/hopper",)
    )
    with pytest.raises(ValueError, match=r"Pong-v5 is in envpool/Pong-v5.*pip install envpool"):
        names.resolve_task("Pong-v5", accelerator=False)
    with pytest.raises(ValueError, match=r"playground/WalkerRun.*nesht-jax\[playground\]"):
        names.resolve_task("WalkerRun", accelerator=True)


@pytest.mark.parametrize(
    "given",
    [
        "envpool/Hopper-v5",
        "mjx/hopper",
        "gymnasium/Mine-v0",
        "gymnasium/mine:Mine-v0",
        "gymnasium/CartPol-v1",  # somebody may have registered it
        "brax/hoper",
        "envpool/Hopper-v6",
        "playground/Go1Footstand",
    ],
)
def test_a_name_with_its_suite_stands(only, given):
    assert names.resolve_task(given, accelerator=False) == names.Resolution(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("Hoper-v5", "unknown task 'Hoper-v5'; did you mean Hopper-v5"),
        ("envpool/Hoper-v5", "did you mean envpool/Hopper-v5"),
        ("mjx/Hopper-v5", "did you mean mjx/hopper"),
        ("playground/cartpole_swingup", "did you mean playground/CartpoleSwingup"),
        ("envpol/Hopper-v5", "unknown suite 'envpol' in task 'envpol/Hopper-v5'"),
        ("", "unknown task ''"),
    ],
)
def test_a_misspelling_is_refused_at_once(only, given, told):
    with pytest.raises(ValueError) as refused:
        names.resolve_task(given, accelerator=False)
    assert told in str(refused.value)


def test_every_suite_has_its_place_in_both_orders():
    for order in (names.CPU_PREFERENCE, names.ACCELERATOR_PREFERENCE):
        assert sorted(order) == sorted(catalog.SUITES)


@pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.task)
def test_every_listed_task_stands_and_its_bare_name_is_found(only, entry):
    assert names.resolve_task(entry.task, accelerator=False).task == entry.task
    found = names.resolve_task(entry.name, accelerator=True)
    assert entry.suite in {task.partition("/")[0] for task in (found.task, *found.others)}


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("quickstart", "quickstart"),
        ("preset/paper", "preset/paper"),
        ("paper", "preset/paper"),
        ("envpool/hopper", "envpool/hopper"),
        ("configs/atari/pong.yaml", "atari/pong"),
        ("cartpole", None),
        ("CartPole-v1", None),
        ("../README", None),
        ("", None),
    ],
)
def test_shipped_configs_are_found_by_name(word, name):
    found = names.find_config(word)
    if name is None:
        assert found is None
    else:
        assert found is not None and found.is_file()
        assert found.as_posix().endswith(f"configs/{name}.yaml")
        assert name in names.shipped_configs()


def test_no_preset_is_named_like_a_config_or_a_task():
    presets = [n.removeprefix("preset/") for n in names.shipped_configs() if "preset/" in n]
    assert presets
    assert not set(presets) & set(names.shipped_configs())
    assert not [preset for preset in presets if catalog.matching(preset)]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("envpool/Hopper-v5", "envpool/hopper"),
        ("gymnasium/Hopper-v5", None),
        ("envpool/Pong-v5", "atari/pong"),
        ("probe/linear", None),
        ("envpool/Pong", None),
    ],
)
def test_the_tuned_config_of_a_task(task, name):
    found = names.tuned_config(task)
    assert found == (name and names.find_config(name))
    assert (found is None) == (name is None)


def test_every_tuned_config_is_of_a_task_that_the_catalog_knows_and_of_no_other():
    found = [
        names.find_config(name)
        for name in names.shipped_configs()
        if "/" in name and not name.startswith("preset/")
    ]
    tuned = [path for path in found if path is not None]
    tasks = [path.read_text("utf-8").splitlines()[0].split(": ")[1] for path in tuned]
    assert [names.tuned_config(task) for task in tasks] == tuned
    assert all(catalog.Entry.named(task) for task in tasks)


def test_configs_are_found_as_a_package_before_those_of_a_checkout(monkeypatch, tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "mine.yaml").write_text("seed: 1\n", "utf-8")

    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: Spec)
    names._shipped.cache_clear()
    try:
        assert names.shipped_configs() == ["preset/mine"]
        assert names.find_config("mine") == Path(tmp_path, "preset", "mine.yaml")
    finally:
        names._shipped.cache_clear()


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("--env", "task"),
        ("env-id", "task"),
        ("--lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("--popsize", "algorithm.num_members"),
        ("members", "algorithm.num_members"),
        ("threshold.sparsity", "sparsity.fraction"),
        ("--threshold.leaves", "sparsity.layers"),
        ("threshold.mask_moments", "sparsity.forget_moments"),
        ("threshold.every", "sparsity.every"),
        ("noise", "distractors"),
        ("evaluate_horizon", "evaluation.horizon"),
        ("output", "out"),
        ("policy.noise", None),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_options_of_other_people(option, ours):
    assert names.synonym(option) == ours


def options(kind, prefix=""):
    """Dotted names of the fields of nested dataclasses."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from options(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_synonym_leads_to_an_option_that_exists_and_is_none_itself():
    from nesht_jax.run.config import Config

    valid = set(options(Config))
    assert set(names._NAMES) <= valid
    assert not set(names._SYNONYMS) & valid


def test_no_synonym_means_two_things():
    theirs = [name for many in names._NAMES.values() for name in many.split()]
    assert len(theirs) == len(set(theirs))


def test_the_words_are_understood_without_jax_or_a_simulator():
    code = (
        "import sys; from nesht_jax.run import names; "
        "names.resolve_task('hopper', accelerator=False); names.find_config('paper'); "
        "names.tuned_config('mjx/hopper'); names.synonym('lr'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not HEAVY & set(loaded.decode().split())


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"sparsity.level": 0.1}, "name its section, as in sparsity={'level': ...}"),
        ({"algoritm": {"sigma": 1}}, "did you mean algorithm"),
        ({"sparsity": {"levle": 1}}, "did you mean sparsity.level"),
    ],
)
def test_a_name_in_the_wrong_place_is_answered_by_the_right_one(given, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        make_config("probe/linear", **given)
