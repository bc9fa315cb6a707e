"""The README's commands are understood and its Python runs."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nesht_jax.run.cli import COMMANDS as NESHT
from nesht_jax.run.cli import Parser, main
from nesht_jax.run.cli.options import given_settings
from nesht_jax.run.settings import read_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"(?:^|&& |`)(nesht (?:train|eval|envs|bench)[^#`\n]*)", README, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code):
    expected = re.findall(r"print\(.*\)\s+# (.*)", code)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == expected


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, name, *argv = shlex.split(command)
    module = importlib.import_module(f"nesht_jax.run.cli.{name}")
    parser = Parser()
    module.add_arguments(parser)
    if "--help" in argv:
        return
    given, leftover = parser.parse_known_intermixed_args(argv)
    assert not leftover and name in NESHT
    if name == "train" and given.resume is None:
        read_command(given.settings, given_settings(given))


@pytest.mark.slow
def test_the_first_command_trains(monkeypatch, tmp_path, capsys):
    """The quickstart, cut to one generation."""
    monkeypatch.chdir(ROOT)
    assert re.findall(r"&& (nesht train quickstart)\n", README)
    out = f"--out={tmp_path / 'run'}"
    assert main(["train", "quickstart", "--generations=1", out]) == 0
    assert "after 1 generations" in capsys.readouterr().out


def test_it_is_short_and_its_first_example_comes_early():
    lines = README.splitlines()
    assert len(lines) <= 180
    assert any("nesht train" in line for line in lines[:25])


def test_every_link_and_picture_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
