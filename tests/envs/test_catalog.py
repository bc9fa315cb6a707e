"""The catalog: what it tells, how it is searched, and that the tasks are what it says."""

import subprocess
import sys
import warnings

import pytest

from nesht_jax.envs import catalog
from nesht_jax.envs.catalog import Entry

HEAVY = {"jax", "mujoco", "envpool", "brax", "gymnax", "mujoco_playground", "gymnasium", "optax"}
CHEAP = {"probe": 1, "gymnasium": 1, "envpool": 5, "gymnax": 1}
"""Suites of which every task, or every fifth, is made."""
SAMPLED = ("mjx/halfcheetah", "mjx/humanoid", "brax/hopper", "playground/CartpoleSwingup")


def test_the_catalog_lists_every_suite_in_order_and_every_task_once():
    found = catalog.entries()
    assert list(dict.fromkeys(entry.suite for entry in found)) == list(catalog.SUITES)
    assert len({entry.task for entry in found}) == len(found)
    assert set(catalog.REMEDIES) <= set(catalog.SUITES)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("envpool", "Hopper-v5", 11, 3, "continuous", None, 1000),
        Entry("envpool", "Pong-v5", 28224, 6, "discrete", (4, 84, 84), 27000),
        Entry("envpool", "CartPole-v1", 4, 2, "discrete", None, 500),
        Entry("envpool", "BipedalWalker-v3", 24, 4, "continuous", None, 1600),
        Entry("mjx", "halfcheetah", 17, 6, "continuous", None, 1000, terminates=False),
        Entry("gymnasium", "CartPole-v1", 4, 2, "discrete", None, 500),
        Entry("gymnasium", "Blackjack-v1", 45, 2, "discrete"),
        Entry("probe", "linear", 5, 1, "continuous", None, 10),
    ],
    ids=lambda entry: entry.task,
)
def test_known_tasks(entry):
    found = Entry.named(entry.task)
    assert found is not None
    # whether a host task ends early is its suite's to tell
    assert found._replace(terminates=entry.terminates) == entry


def test_rows_read_back_to_the_entry_they_were_written_from():
    assert all(Entry.of_row(entry.row()) == entry for entry in catalog.entries())


def test_sizes_are_all_known_or_all_unknown():
    for entry in catalog.entries():
        sizes = (entry.observation, entry.actions, entry.kind or None)
        assert all(sizes) or not any(sizes), entry.task


def test_reading_the_catalog_imports_no_simulator():
    code = (
        "import sys; from nesht_jax.envs import catalog; catalog.entries(); "
        "[catalog.installed(suite) for suite in catalog.SUITES]; "
        "catalog.search(['hopper']); catalog.unknown_task('Hoper-v5'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not HEAVY & set(loaded.decode().split())


def test_the_catalog_is_read_as_utf_8_in_any_locale():
    code = "from nesht_jax.envs import catalog; print(len(catalog.entries()))"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", code],
        capture_output=True,
        check=True,
        env=ascii_only,
    )
    assert int(ran.stdout) == len(catalog.entries())


def test_a_suite_without_its_package_is_not_installed(monkeypatch):
    absent = {"envpool", "mujoco", "mujoco_playground", "gymnax"}
    find = catalog.importlib.util.find_spec
    monkeypatch.setattr(
        catalog.importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    found = [suite for suite in catalog.SUITES if catalog.installed(suite)]
    assert not {"envpool", "mjx", "playground", "gymnax"} & set(found)
    assert {"gymnasium", "probe"} <= set(found)


def test_mjx_is_installed_only_where_mujoco_has_its_folder(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: Spec)
    assert not catalog.installed("mjx")
    (tmp_path / "mjx").mkdir()
    assert catalog.installed("mjx")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("HalfCheetah-v5", ("halfcheetah", 5)),
        ("half_cheetah", ("halfcheetah", None)),
        ("half-cheetah_V10", ("halfcheetah", 10)),
        ("Walker2d-v4", ("walker2d", 4)),
        ("Catch-bsuite", ("catchbsuite", None)),
        ("phys2d/CartPole-v1", ("phys2d/cartpole", 1)),
        ("", ("", None)),
    ],
)
def test_canonical_names(name, split):
    assert catalog.canonical(name) == split


def tasks(*words):
    return {entry.task for entry in catalog.search(words)}


def test_search_finds_what_contains_every_word_in_any_spelling():
    hoppers = tasks("hopper")
    assert {"envpool/Hopper-v5", "mjx/hopper", "brax/hopper", "playground/HopperHop"} <= hoppers
    assert all("hopper" in task.lower() for task in hoppers)
    assert tasks("Half_Cheetah", "MJX") == {"mjx/halfcheetah"}
    assert tasks("inverted-pendulum", "brax") == {"brax/inverted_pendulum"}
    assert tasks("no such task") == set()
    assert tasks() == {entry.task for entry in catalog.entries()}


@pytest.mark.parametrize(
    ("given", "valid", "clause"),
    [
        ("Adm", ["sgd", "Adam", "lion"], "did you mean Adam"),
        ("zzz", {"sgd", "adam"}, "valid are adam, sgd"),
        ("zzz", [f"name{i:02}" for i in range(25)], "name18, name19 and 5 more"),
    ],
)
def test_nearest_names(given, valid, clause):
    assert catalog.nearest(given, valid).endswith(clause)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("Hoper-v5", "unknown task 'Hoper-v5'; did you mean Hopper-v5"),
        ("Hopper-v3", "unknown task 'Hopper-v3'; did you mean Hopper-v5, Hopper-v4"),
        ("mspackman", "unknown task 'mspackman'; did you mean MsPacman-v5"),
        ("Space", "unknown task 'Space'; did you mean SpaceInvaders-v5, SpaceWar-v5"),
        ("xyzzy", "unknown task 'xyzzy'; `nesht envs` lists all tasks"),
        ("", "unknown task ''; `nesht envs` lists all tasks"),
        ("envpool/Hoper-v5", "unknown task 'envpool/Hoper-v5'; did you mean envpool/Hopper-v5"),
        ("mjx/Hopper-v5", "unknown task 'mjx/Hopper-v5'; did you mean mjx/hopper"),
        (
            "mjx/CartPole-v1",
            "unknown task 'mjx/CartPole-v1'; "
            "CartPole-v1 is in envpool/CartPole-v1, gymnasium/CartPole-v1, gymnax/CartPole-v1",
        ),
        ("probe/xyzzy", "unknown task 'probe/xyzzy'; `nesht envs probe` lists its tasks"),
        (
            "gym/CartPole-v0",
            "unknown suite 'gym' in task 'gym/CartPole-v0'; "
            "CartPole-v0 is in gymnasium/CartPole-v0",
        ),
        (
            "CartPole-v0",
            "task 'CartPole-v0' needs the name of its suite: "
            "CartPole-v0 is in gymnasium/CartPole-v0",
        ),
        ("brx/x", "unknown suite 'brx' in task 'brx/x'; did you mean brax"),
    ],
)
def test_sentences_about_unknown_tasks(given, sentence):
    assert catalog.unknown_task(given).startswith(sentence)


@pytest.mark.parametrize("task", ["envpool/Hoper-v5", "envpool/Hopper", "playground/walker_run"])
def test_a_misspelling_is_a_typo(task):
    assert catalog.is_typo(task)


@pytest.mark.parametrize("task", ["envpool/Hopper-v6", "playground/Go1Footstand", "probe/xyzzy"])
def test_what_a_newer_package_may_have_is_no_typo(task):
    assert not catalog.is_typo(task)


def test_did_you_mean_has_one_place_in_the_package():
    package = catalog.FILE.parents[1]
    users = [path for path in package.rglob("*.py") if "difflib" in path.read_text("utf-8")]
    assert users == [package / "envs" / "catalog.py"]


def live(task):
    from nesht_jax.envs.tasks import make_task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # simulators deprecate their own old versions
        return Entry.of(make_task(task))


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("suite", CHEAP)
def test_the_catalog_agrees_with_the_tasks_of_cheap_suites(suite):
    if not catalog.installed(suite):
        pytest.skip(f"{suite} is not installed")
    listed = [e for e in catalog.entries() if e.suite == suite and e.kind][:: CHEAP[suite]]
    assert [live(entry.task) for entry in listed] == listed


@pytest.mark.simulator
@pytest.mark.parametrize("suite", catalog.SUITES)
def test_the_catalog_lists_exactly_the_tasks_that_came_with_a_suite(suite):
    from nesht_jax.envs.tasks import task_names

    if not catalog.installed(suite):
        pytest.skip(f"{suite} is not installed")
    listed = {entry.task for entry in catalog.entries() if entry.suite == suite}
    present = set(task_names(suite))
    assert listed <= present
    # tests of other files may have registered their own
    assert suite in ("gymnasium", "brax") or present == listed


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("task", SAMPLED)
def test_the_catalog_agrees_with_some_tasks_of_dear_suites(task):
    if not catalog.installed(task.partition("/")[0]):
        pytest.skip(f"the suite of {task} is not installed")
    assert live(task) == Entry.named(task)
