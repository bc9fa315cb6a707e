"""The command line: ``nesht train | eval | envs | bench``."""

import argparse
import ast
import json
import os
import re
import runpy
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from nesht_jax.envs import ROOMS, task_names
from nesht_jax.run.config import (
    Config,
    Value,
    add_config_arguments,
    from_arguments,
    nearest,
    read_config,
)
from nesht_jax.run.evaluate import Score, evaluate_run
from nesht_jax.run.human import human_normalized
from nesht_jax.run.train import Result, train


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Bad input ends with one sentence on standard error and exit code 2."""
    argv = _as_parsed(list(sys.argv[1:] if argv is None else argv))
    _keep_compilations()
    try:
        given = _parser().parse_args(argv)
        commands = {"train": _train, "eval": _eval, "envs": _envs, "bench": _bench}
        return commands[given.command](given, argv)
    except (argparse.ArgumentError, ValueError) as error:
        print(f"nesht: {_sentence(error)}", file=sys.stderr)
        return 2


def _keep_compilations() -> None:
    """Compiled programs go to the user's cache folder, unless JAX's own variable names another."""
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update(option, str(caches / "nesht_jax"))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="nesht",
        exit_on_error=False,
        description="Sparse policies by Natural Evolution Strategies with Hard Thresholding.",
    )
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("train", _train_parser(), help="train a policy")
    commands.add_subcommand("eval", _eval_parser(), help="evaluate what a run has learned")
    commands.add_subcommand("envs", _envs_parser(), help="list the tasks")
    commands.add_subcommand("bench", _bench_parser(), help="measure speed")
    return parser


def _train_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        usage="nesht train [CONFIG.yaml ...] [options]\n"
        "       nesht train --resume RUN [--generations N]",
        description="Train a policy. YAML files are merged from left to right; options win.",
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        metavar="RUN",
        help="go on with the run in this folder, by its own config; only generations may change",
    )
    add_config_arguments(parser)
    return parser


def _eval_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        description="Play many episodes with the newest checkpoint of a run, with and without "
        "threshold.",
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--episodes", type=int, default=100, help="how many")
    parser.add_argument(
        "--task", type=str | None, help="another task of the same sizes, as envpool/Hopper-v5"
    )
    parser.add_argument(
        "--task_options",
        type=dict[str, Value],
        default={},
        help="over those of the run, as {pixel_noise: 10} for noise on the frames of Atari",
    )
    parser.add_argument("--seed", type=int, default=0, help="of resets and noise features")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _envs_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description="List the tasks of every room.")
    parser.add_argument("room", nargs="?", help="only this one: " + ", ".join(ROOMS))
    return parser


def _bench_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        usage="nesht bench [NAME [options]]",
        description="Make one table of measurements; without a name, list them.",
    )
    parser.add_argument("name", nargs="?", help="of the table")
    parser.add_argument("options", nargs="*", help="see `nesht bench NAME --help`")
    return parser


def _as_parsed(argv: list[str]) -> list[str]:
    """``train a.yaml b.yaml …`` as ``train --config=a.yaml --config=b.yaml …``, and
    ``bench NAME …`` as ``bench NAME -- …``: what follows belongs to the script."""
    if argv[:1] == ["bench"] and not argv[1:2] == ["--help"]:
        return [*argv[:2], *(["--", *argv[2:]] if argv[2:] else [])]
    if argv[:1] != ["train"]:
        return argv
    count = next((i for i, a in enumerate(argv[1:]) if a.startswith("-")), len(argv) - 1)
    return ["train", *(f"--config={path}" for path in argv[1 : 1 + count]), *argv[1 + count :]]


def _train(given: Namespace, argv: list[str]) -> int:
    parser = _train_parser()
    config = from_arguments(parser, given.train)
    resume = given.train.resume
    if resume is not None:
        saved = read_config(Path(resume))
        on_top = parser.parse_args([f"--config={resume}/config.yaml", *argv[1:]])
        config = _continued(saved, from_arguments(parser, on_top))
    console = Console()
    result = train(config, resume=resume is not None, console=console)
    _conclude(console, config, result)
    return 128 + result.interrupted if result.interrupted else 0


def _continued(saved: Config, asked: Config) -> Config:
    """The saved config with the number of generations that is asked for."""
    config = replace(saved, generations=asked.generations)
    changed = [
        f.name
        for f in fields(Config)
        if f.name != "out" and getattr(asked, f.name) != getattr(config, f.name)
    ]
    if changed or asked.out:
        names = ", ".join(changed or ["out"])
        raise ValueError(f"a resumed run keeps its config but for generations; got {names}")
    return config


def _conclude(console: Console, config: Config, result: Result) -> None:
    """Says what was learned, and where it lies."""
    generation = int(result.state.generation)
    if result.interrupted:
        console.print(
            f"Stopped by {result.interrupted.name} after generation {generation}; "
            f"go on with: nesht train --resume {result.folder}",
            soft_wrap=True,
        )
        return
    learned = [row["evaluation"] for row in result.rows if row.get("evaluation")][-1]
    weights = sum(leaf.size for leaf in jax.tree.leaves(result.state.params))
    kept = round((1 - learned["sparsity"]) * weights)
    true, *noise = learned["segment_norms"]
    table = Table(title=f"{config.task} after {generation} generations", show_header=False)
    error = learned["standard_error"]
    spread = "" if error is None else f" ± {error:.1f}"
    table.add_row("return of the thresholded centre", f"{learned['mean']:.1f}{spread}")
    normalized = human_normalized(config.task, learned["mean"])
    if normalized is not None:
        table.add_row("human-normalised", f"{normalized:.3f}")
    table.add_row("weights kept", f"{kept} of {weights}, sparsity {learned['sparsity']:.3f}")
    if noise:
        mean = sum(noise) / len(noise)
        against = f"{true / mean:.1f} × the mean noise segment" if mean else "noise all zeroed"
        table.add_row("weight norm on the true observation", f"{true:.3g}, {against}")
    table.add_row("learning curve", str(result.folder / "learning_curve.png"))
    table.add_row("weights by segment", str(result.folder / "segments.png"))
    table.add_row("metrics", str(result.folder / "metrics.jsonl"))
    console.print(table)
    console.print(f"Evaluate it on fresh episodes: nesht eval {result.folder}", soft_wrap=True)


def _eval(given: Namespace, argv: list[str]) -> int:
    options = given.eval
    scores = evaluate_run(
        Path(options.run),
        episodes=options.episodes,
        task=options.task,
        options=options.task_options,
        seed=options.seed,
    )
    if options.json:
        plain = {k: v._asdict() if isinstance(v, Score) else v for k, v in scores._asdict().items()}
        print(json.dumps(plain))
        return 0
    console = Console()
    console.print(
        f"{options.run} after {scores.generation} generations, played on {scores.task}: "
        f"{options.episodes} episodes each, from the same resets",
        soft_wrap=True,
    )
    table = Table()
    for heading in ("", "return", "std error", "95 % interval", "sparsity", "length"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, score, sparsity in (
        ("with threshold", scores.thresholded, scores.thresholded_sparsity),
        ("without threshold", scores.centre, scores.centre_sparsity),
    ):
        table.add_row(
            name,
            f"{score.mean:.1f}",
            f"{score.standard_error:.1f}",
            f"{score.low:.1f} … {score.high:.1f}",
            f"{sparsity:.3f}",
            f"{score.steps:.0f}",
        )
    console.print(table)
    both = [human_normalized(scores.task, s.mean) for s in (scores.thresholded, scores.centre)]
    if None not in both:
        console.print(
            "human-normalised: {:.3f} with threshold, {:.3f} without".format(*both), soft_wrap=True
        )
    return 0


def _envs(given: Namespace, argv: list[str]) -> int:
    room = given.envs.room
    if room is not None and room not in ROOMS:
        raise ValueError(f"no room {room!r}; {nearest(room, ROOMS)}")
    console = Console()
    for name in [room] if room else ROOMS:
        console.print(f"[bold]{name}[/bold]: {ROOMS[name]}", soft_wrap=True)
        try:
            for task in task_names(name):
                console.print(f"  {task}", highlight=False)
        except ValueError as missing:
            console.print(f"  {missing}", soft_wrap=True)
    return 0


def _bench(given: Namespace, argv: list[str]) -> int:
    """Runs a script of ``benchmarks/``, which is part of a checkout, not of an installation."""
    folder = Path(__file__).parents[2] / "benchmarks"
    scripts = {path.stem: path for path in folder.glob("*.py") if "def main" in path.read_text()}
    if not scripts:
        raise ValueError(
            "benchmarks come with a checkout of the repository: pip install -e . in it"
        )
    name, options = given.bench.name, given.bench.options
    if name is None:
        for name, path in sorted(scripts.items()):
            about = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"{name:12} {about.partition(chr(10))[0]}")
        return 0
    if name not in scripts:
        raise ValueError(f"unknown benchmark {name!r}; {nearest(name, scripts)}")
    sys.argv = [str(scripts[name]), *options]
    sys.path.insert(0, str(folder))
    runpy.run_path(str(scripts[name]), run_name="__main__")
    return 0


def _sentence(error: Exception) -> str:
    """The parser's words in one line: what was expected, what was got, the nearest valid names."""
    words = " ".join(str(error).split())
    for mark in ("unrecognized arguments: ", "does not accept option ", "Option "):
        if mark in words:
            given = words.split(mark)[1].split()[0].strip("'").lstrip("-").split("=")[0]
            return f"unknown option {given!r}; {nearest(given, _option_names())}"
    words = re.sub(r" Given value type: \S+ \S+", "", words)
    wrong = re.match(r'Parser key "([^"]+)": (.*) (?:Got|Given) value: (.*)', words)
    if wrong:
        key, expected, got = wrong.groups()
        names = [a or b for a, b in re.findall(r"<class '(\w+)'>|'(\w+)'", expected)]
        kinds = dict.fromkeys(name.replace("NoneType", "null") for name in names)
        return f"{key} must be {' or '.join(kinds)}, got {got}"
    return words


def _option_names() -> set[str]:
    parsers: list[Any] = [_train_parser(), _eval_parser(), _envs_parser()]
    return {
        option.lstrip("-")
        for parser in parsers
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }


if __name__ == "__main__":
    sys.exit(main())
