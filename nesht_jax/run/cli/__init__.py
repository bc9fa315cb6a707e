"""The command line: ``nesht train``, ``sweep``, ``eval`` and the others of ``COMMANDS``.

Each command is one module here with two functions: ``add_arguments`` says what it takes, and
``prepare`` reads that and returns what then does the work. Errors of the first are errors of the
input: one sentence, exit code 2. What an environment raises in the second keeps its traceback.
"""

import argparse
import contextlib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from signal import SIGINT
from typing import Any, NoReturn

from nesht_jax.envs.catalog import nearest
from nesht_jax.run.launcher import LOST, LostProcessError, place_of

COMMANDS = {
    "train": "train a policy, or go on with a run",
    "sweep": "train a grid of settings and seeds, as a folder of runs",
    "eval": "evaluate what a run has learned",
    "report": "write a page of a run, or of several",
    "render": "film what a run has learned",
    "export": "write what a run has learned as NumPy or C",
    "zoo": "list the trained policies that come with the package",
    "envs": "list or search the tasks",
    "bench": "make a table of measurements (in a checkout)",
}
"""Name of each command, which is its module's, and what it does."""

BROKEN_PIPE = 128 + 13
"""Exit code where nobody reads the output any more, as of a program that SIGPIPE ends."""


class Parser(argparse.ArgumentParser):
    """A parser that raises its complaints instead of ending the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        """Raises ValueError with the message."""
        raise ValueError(message)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Bad input ends with one sentence on standard error and exit code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for text in (sys.stdout, sys.stderr):
        if hasattr(text, "reconfigure"):  # a terminal without a sign for "·" must not end a run
            text.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    if not argv or argv[0] in ("-h", "--help"):
        _main_parser().print_help()
        return 0
    if argv[0] == "--version":
        print(f"nesht {version('nesht-jax')}")
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            try:
                work = _prepared(argv)
            except (ValueError, OSError, RecursionError) as error:
                return _alone(_complain(error, 2))
            try:
                return work()
            except BrokenPipeError:  # who reads, as ``head``, has read enough
                with open(os.devnull, "w", encoding="utf-8") as nowhere:
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())
                return _alone(BROKEN_PIPE)
            except (OSError, FloatingPointError) as error:
                return _alone(_complain(error, 1))
        except LostProcessError as error:
            return _alone(_complain(error, LOST))
        except Exception:  # whatever it is, the others must not wait; alone, it passes
            if not _has_others():
                raise
            traceback.print_exc()
            return _alone(1)
        except KeyboardInterrupt:  # before a run catches it, or the second one: it can be resumed
            return _alone(128 + SIGINT)


def _has_others() -> bool:
    try:
        return place_of(os.environ) is not None
    except ValueError:
        return False


def _alone(code: int) -> int:
    """The code; a process of several ends with it at once, as its end would wait for the others."""
    if _has_others():
        from nesht_jax.run.processes import leave

        leave(code)
    return code


def _prepared(argv: list[str]) -> Callable[[], int]:
    name, *rest = argv
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
    command = importlib.import_module(f"nesht_jax.run.cli.{name}")
    parser = Parser(prog=f"nesht {name}", description=command.__doc__)
    command.add_arguments(parser)
    return command.prepare(parser, rest)


def _main_parser() -> Parser:
    listed = "\n".join(f"  {name:8}{about}" for name, about in COMMANDS.items())
    return Parser(
        prog="nesht",
        usage="nesht COMMAND ...",
        description="Sparse policies by Natural Evolution Strategies with Hard Thresholding.\n\n"
        f"commands:\n{listed}\n\n"
        "`nesht COMMAND --help` tells of one; `nesht train CartPole-v1` is a start.",
        epilog="`nesht --version` prints the version.",
    )


def _complain(error: BaseException, code: int) -> int:
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        place = f" {error.filename}" if error.filename else ""
        words = f"{error.strerror}:{place}" if place else error.strerror
    with contextlib.suppress(OSError):
        print(f"nesht: {words}", file=sys.stderr)
    return code


def _show_warning(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any):
    """Ours in one sentence, those of others with their place."""
    if issubclass(category, UserWarning) and "nesht_jax" in filename:
        print(f"nesht: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))
