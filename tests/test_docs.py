"""The commands of the documentation are understood, and its Python prints what its comments say."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nesht_jax.run import cli
from nesht_jax.run.cli.grid import read_grid, read_tuning
from nesht_jax.run.cli.options import given_settings, refuse_unknown
from nesht_jax.run.settings import read_command

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
BLOCKS = {
    f"{path.stem}{number}": code
    for path in sorted((ROOT / "docs").glob("*.md"))
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    )
}
COMMANDS = sorted(
    {
        found.strip()
        for path in PAGES
        for found in re.findall(
            r"(?:^|`)nesht ((?:train|sweep|eval|render|export|envs|bench)\b[^#`\n]*)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    """Parses them, and resolves their tasks and settings; what reads a run folder is not read."""
    monkeypatch.chdir(ROOT)
    name, *argv = shlex.split(command)
    if "--help" in argv or argv in ([], ["NAME"]):
        return
    if name == "bench":
        return understand_bench(monkeypatch, *argv)
    module, parser = importlib.import_module(f"nesht_jax.run.cli.{name}"), cli.Parser(prog=name)
    module.add_arguments(parser)
    given, leftover = parser.parse_known_intermixed_args(argv)
    refuse_unknown(leftover)
    if name == "train" and given.resume is None:
        read_command(given.settings, given_settings(given))
    if name == "sweep":
        read_grid(given) if given.optuna is None else read_tuning(given)
    if name == "envs":
        assert callable(module.prepare(parser, argv))


def understand_bench(monkeypatch, name, *argv):
    script = ROOT / "benchmarks" / f"{name}.py"
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), *argv])
    options = runpy.run_path(str(script))["_options"]()
    if isinstance(options, tuple):  # the words and options of nesht train, too
        own, make_config = options
        for task in getattr(own, "tasks", [None]):
            make_config(task)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_python_runs(name, tmp_path):
    code = BLOCKS[name]
    expected = re.findall(r"print\(.*\)\s+# (.*)", code)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr
    assert not expected or run.stdout.splitlines() == expected


def test_every_link_to_a_file_is_there():
    """Sphinx checks the links between pages of docs/; these are read elsewhere, too."""
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)
