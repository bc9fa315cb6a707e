"""Make one table of measurements; without a name, list them."""

import argparse
import ast
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from nesht_jax.envs.catalog import nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``nesht bench`` takes."""
    parser.usage = "nesht bench [NAME [options]]"
    parser.add_argument("name", nargs="?", help="name of the table")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options, see `nesht bench NAME --help`"
    )


def prepare(parser: argparse.ArgumentParser, argv: list[str]) -> Callable[[], int]:
    """Finds a script of ``benchmarks/``, which is part of a checkout, not of an installation."""
    given = parser.parse_args(argv)
    folder = Path(__file__).parents[3] / "benchmarks"
    scripts = {
        path.stem: path
        for path in folder.glob("*.py")
        if "def main" in path.read_text(encoding="utf-8")
    }
    if not scripts:
        raise ValueError(
            "benchmarks come with a checkout of the repository: pip install -e . in it"
        )
    if given.name is None:
        return lambda: _list(scripts)
    if given.name not in scripts:
        raise ValueError(f"unknown benchmark {given.name!r}; {nearest(given.name, scripts)}")
    return lambda: _run(scripts[given.name], given.options)


def _list(scripts: dict[str, Path]) -> int:
    for name, path in sorted(scripts.items()):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print(f"{name:14} {about.partition(chr(10))[0]}")
    return 0


def _run(script: Path, options: list[str]) -> int:
    sys.argv = [str(script), *options]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0
