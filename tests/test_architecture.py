"""The import law, read from the imports themselves; and what keeps the core pure."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nesht_jax

PACKAGE = Path(nesht_jax.__file__).parent
PARTS = {"noise", "shaping", "gradient", "threshold", "density", "normalize", "network", "policy"}
CORE = PARTS | {"contract", "nesht"}
ASSEMBLY = "nesht"
BUILT_ON = {"policy": {"network"}}
"""A policy is a network with bounds; no other part sees a sibling."""
CORE_LIBRARIES = {"jax", "optax", "flax", "jaxtyping", "numpy"}
IMPURE = {"io", "os", "pathlib", "pickle", "random", "shutil", "sys", "tempfile", "time"}
ROOM_PARTS = {"compiler", "host", "noisy", "queue", "quiet", "rollout", "task"}
SIMULATORS = {
    "mjx": {"mujoco", "gymnasium"},
    "mjx_tasks": {"mujoco"},
    "mjx_contacts": {"mujoco"},
    "envpool_tasks": {"envpool"},
    "gymnasium_vector": {"gymnasium"},
    "playground": {"mujoco_playground"},
    "probe": set(),
    "quiet": {"mujoco"},
}
"""What a room may import of simulators; by default only the package it is named after."""


def modules(*folders):
    return [path for folder in folders for path in sorted((PACKAGE / folder).glob("*.py"))]


CORE_FILES = [PACKAGE / f"{name}.py" for name in sorted(CORE)]
ROOM_FILES = modules("envs")
ALL_FILES = modules("", "envs", "run")


def named(path):
    return str(path.relative_to(PACKAGE).with_suffix(""))


def imports(path):
    """Dotted names that a file imports, wherever in it: ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def outside(path):
    """Top packages that are neither ours nor the standard library's."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"nesht_jax"}


def ours(path):
    """Our own modules, as ``noise`` or ``envs.rollout``."""
    found = set()
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "nesht_jax":
            found.add(".".join(rest[:2]) if rest[:1] in (["envs"], ["run"]) else rest[0])
    return found


def test_every_module_at_the_top_has_its_place_in_the_law():
    assert {path.stem for path in modules("")} == CORE | {"__init__"}


@pytest.mark.parametrize("path", CORE_FILES, ids=named)
def test_the_core_imports_no_other_library(path):
    assert outside(path) <= CORE_LIBRARIES


@pytest.mark.parametrize("path", CORE_FILES, ids=named)
def test_the_core_knows_no_files_clock_or_system(path):
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


@pytest.mark.parametrize("path", CORE_FILES, ids=named)
def test_parts_import_no_sibling_and_only_the_assembly_sees_them(path):
    below = {"contract"} | BUILT_ON.get(path.stem, set())
    assert ours(path) <= (CORE if path.stem == ASSEMBLY else below)


@pytest.mark.parametrize("path", ROOM_FILES, ids=named)
def test_a_room_imports_the_core_and_its_own_simulator(path):
    room = path.stem
    shared = room in ROOM_PARTS | {"__init__"}
    simulators = SIMULATORS.get(room, set() if shared else {room})
    assert outside(path) <= CORE_LIBRARIES | simulators
    own = {part for part in SIMULATORS if part.startswith(f"{room}_")}
    assert ours(path) <= CORE | {f"envs.{part}" for part in ROOM_PARTS | own}


@pytest.mark.parametrize("path", ALL_FILES, ids=named)
def test_nobody_imports_the_edges_but_the_edges(path):
    edges = {name for name in ours(path) if name.startswith("run")}
    assert path.parent.name == "run" or not edges or path == PACKAGE / "__init__.py"


@pytest.mark.parametrize("path", CORE_FILES + ROOM_FILES, ids=named)
def test_core_and_rooms_neither_print_nor_evaluate_strings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(getattr(node, "func", None), "id", None)
        assert name not in {"print", "eval", "exec", "input"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", ALL_FILES, ids=named)
def test_no_pickle_anywhere(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "cloudpickle", "dill"}


@pytest.mark.parametrize("path", ALL_FILES, ids=named)
def test_no_stepping_of_envpool_inside_xla(path):
    """Its ``xla()`` holds the process's lock and reads actions out of order."""
    calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
    assert not any(getattr(call.func, "attr", None) == "xla" for call in calls)


@pytest.mark.parametrize("path", ALL_FILES, ids=named)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, documented) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []
    assert path.name == "__init__.py" or ast.get_docstring(tree)


@pytest.mark.parametrize("name", nesht_jax.__all__)
def test_every_public_name_resolves(name):
    assert getattr(nesht_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = nesht_jax.no_such_thing


def test_importing_the_functions_loads_neither_the_edges_nor_a_simulator():
    heavy = {"nesht_jax.run", "jsonargparse", "matplotlib", "tensorboardX", "envpool", "mujoco"}
    code = "import sys, nesht_jax; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not heavy & set(loaded.decode().split())
