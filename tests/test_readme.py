"""The README's commands are understood and its Python runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nesht_jax.run.cli import _as_parsed, _parser, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"(?:^|&& |`)(nesht (?:train|eval|envs|bench)[^#`\n]*)", README, re.MULTILINE)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code):
    expected = re.findall(r"print\(.*\)\s+# (.*)", code)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == expected


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_parse(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = shlex.split(command)[1:]
    if "--help" not in argv:
        assert _parser().parse_args(_as_parsed(argv)).command == argv[0]


def test_the_first_command_trains(monkeypatch, tmp_path, capsys):
    """The quickstart, cut to one generation."""
    monkeypatch.chdir(ROOT)
    (config,) = re.findall(r"nesht train (configs/quickstart\.yaml)", README)
    assert main(["train", config, "--generations=1", f"--out={tmp_path / 'run'}"]) == 0
    assert "after 1 generations" in capsys.readouterr().out


def test_every_link_and_picture_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
