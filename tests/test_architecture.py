"""The import law, read from the imports themselves; and what keeps the pure parts pure."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nesht_jax

PACKAGE = Path(nesht_jax.__file__).parent
ROOT = PACKAGE.parent

PURE = ("types", "es", "sparse", "policy", "search", "shares", "rl")
LAW = {
    "types": set(),
    "es": {"types"},
    "sparse": {"types"},
    "policy": {"types"},
    "search": {"types", "es", "policy"},
    "shares": {"types", "es"},
    "envs": {"types", "es.noise"},
    "rl": {
        "types",
        "sparse",
        "policy",
        "envs.suite",
        "envs.distractors",
        "envs.host_distractors",
    },
    "report": {"types"},
    "run": {"types", "es", "sparse", "policy", "search", "envs", "rl", "report", "shares"},
}
"""What each part may import of the package, beside itself."""

PURE_LIBRARIES = {"jax", "optax", "flax", "jaxtyping", "numpy"}
IMPURE = {"io", "os", "pathlib", "pickle", "random", "shutil", "sys", "tempfile", "time"}
SIMULATORS = {
    "brax": {"brax"},
    "envpool": {"envpool"},
    "gymnasium": {"gymnasium"},
    "gymnax": {"gymnax"},
    "mjx": {"mujoco", "gymnasium"},
    "playground": {"mujoco_playground"},
    "silence": {"mujoco"},
}
"""What the modules of a suite may import of simulators."""

FILES = sorted(PACKAGE.rglob("*.py"))


def named(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


PURE_FILES = [path for path in FILES if part(path) in PURE]
ENV_FILES = [path for path in FILES if part(path) == "envs"]
REPORT_FILES = [path for path in FILES if part(path) == "report"]


def imports(path):
    """Dotted names that a file imports, wherever in it: ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    """Our own modules, as ``es.noise.perturbation``."""
    return {name.removeprefix("nesht_jax.") for name in imports(path) if "nesht_jax." in name}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "__init__.py" or p.parent != PACKAGE], ids=named
)
def test_a_part_imports_what_the_law_lets_it(path):
    own = part(path)
    for name in ours(path):
        allowed = any(name == law or name.startswith(f"{law}.") for law in LAW[own] | {own})
        assert allowed, f"{named(path)} imports {name}"


def test_every_part_has_its_place_in_the_law():
    top = {path.stem for path in PACKAGE.glob("*.py")} | {
        p.parent.name for p in PACKAGE.glob("*/*.py")
    }
    assert top == set(LAW) | {"__init__"}


def test_types_stand_on_nothing_of_ours():
    assert ours(PACKAGE / "types.py") == set()
    assert outside(PACKAGE / "types.py") == {"jax", "jaxtyping", "numpy"}


@pytest.mark.parametrize("path", PURE_FILES, ids=named)
def test_the_pure_parts_import_no_other_library(path):
    assert outside(path) <= PURE_LIBRARIES


@pytest.mark.parametrize("path", PURE_FILES, ids=named)
def test_the_pure_parts_know_no_files_clock_or_system(path):
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


def suite_named(path):
    """The suite of a file of ``envs``: its folder's name, or its own before ``_``."""
    first = path.relative_to(PACKAGE / "envs").parts[0].removesuffix(".py")
    return first.partition("_")[0]


@pytest.mark.parametrize("path", ENV_FILES, ids=named)
def test_a_suite_imports_its_own_simulator_alone(path):
    own = suite_named(path)
    assert outside(path) <= PURE_LIBRARIES | SIMULATORS.get(own, set())
    siblings = {name.split(".")[1].partition("_")[0] for name in ours(path) if "envs." in name}
    assert not (set(SIMULATORS) - {"silence", own}) & siblings


@pytest.mark.parametrize("path", REPORT_FILES, ids=named)
def test_a_report_reads_run_folders_only(path):
    heavy = {"jax", "orbax", "optax", "flax"} | {s for some in SIMULATORS.values() for s in some}
    assert not outside(path) & heavy


@pytest.mark.parametrize("path", PURE_FILES + ENV_FILES, ids=named)
def test_neither_pure_parts_nor_suites_print_or_evaluate_strings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(getattr(node, "func", None), "id", None)
        assert name not in {"print", "eval", "exec", "input"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_pickle_anywhere(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "cloudpickle", "dill"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_stepping_of_envpool_inside_xla(path):
    """Its ``xla()`` holds the process's lock and reads actions out of order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert not any(getattr(call.func, "attr", None) == "xla" for call in calls)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_text_files_have_an_encoding(path):
    """The locale's own is not UTF-8 everywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"read_text", "write_text", "open", "fdopen"}:
                assert any(k.arg == "encoding" for k in node.keywords), f"line {node.lineno}"


def test_one_place_asks_for_cores():
    users = [named(p) for p in FILES if "sched_getaffinity" in p.read_text(encoding="utf-8")]
    assert users == ["envs/host"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, documented) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []
    assert ast.get_docstring(tree)


ORPHANS = ("of ", "their", "those", "its ", "the same", "likewise", "all of")


@pytest.mark.parametrize("path", FILES, ids=named)
def test_entries_of_docstrings_stand_alone(path):
    """A noun first: "of the episode" means nothing to who reads one entry."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.FunctionDef, ast.ClassDef)
    for node in (n for n in ast.walk(tree) if isinstance(n, documented)):
        lines = (ast.get_docstring(node) or "").splitlines()
        entries = [line.strip() for line in lines if line.startswith("    ") and ": " in line]
        for entry in entries:
            name, _, text = entry.partition(": ")
            if name.isidentifier():
                assert not text.lower().startswith(ORPHANS), f"{node.name}: {entry}"


def test_the_wheel_holds_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")}
    there = {".".join(folder.parts) for folder in folders} | {"nesht_jax.configs"}
    assert set(project["tool"]["setuptools"]["packages"]) == there


@pytest.mark.parametrize("name", nesht_jax.__all__)
def test_every_public_name_resolves(name):
    assert getattr(nesht_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = nesht_jax.no_such_thing


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.name for path in PACKAGE.iterdir()
    }
    assert not set(nesht_jax.__all__) & modules


def test_importing_the_functions_loads_neither_the_edges_nor_a_simulator():
    heavy = {"nesht_jax.run", "matplotlib", "tensorboardX", "orbax", "envpool", "mujoco"}
    code = "import sys; from nesht_jax import nesht, make_task, make_evaluate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not heavy & set(loaded.decode().split())
