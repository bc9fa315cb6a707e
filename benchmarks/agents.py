"""Sparse agents beside dense ones: DQN, SAC and PPO by method and sparsity.

    python benchmarks/agents.py --tasks gymnax/Acrobot-v1 --fractions 0.9 --seeds 0 1 2 3 4

Trains every (task, method, fraction, seed) and adds a row a run to the table; rows that are there
stand, so the command goes on where it was cut off. Then it writes what they amount to, a row a
method, into the table of the same name that ends in ``_summary``: the interquartile mean over the
seeds of the last tenth of the evaluations, with its 95 % bootstrap interval, and the per cent of
dense that it is, where the untrained policy is 0. Lines of all tasks draw seeds within each.
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from learning_rows import EIGHT_ENVS, add_run_options, learn
from measuring import Row, command, planned, task_name, write

from nesht_jax import make_config, make_task
from nesht_jax.policy.size import dense_twin
from nesht_jax.report.statistics import bootstrap_interval, iqm
from nesht_jax.run.config import Config
from nesht_jax.run.result import Result
from nesht_jax.sparse.distribution import split

METHODS = ["dense", "twin", "static", "set", "rigl", "pruning"]
"""Dense; a dense network of as many weights as a sparse one has; and the sparse methods."""

HORIZONS = {"gymnax/CartPole-v1": 200}
"""Steps of an episode, where the source's version of the task has others."""

PRUNING = {
    "dqn": (20_000, 75_000, 1_000),
    "sac": (200_000, 800_000, 1_000),
    "ppo": (32_000, 120_000, 500),
}
"""First and last update at which the source prunes, and those from one to the next."""

DECAY = {"dqn": 2e-6, "sac": 2e-6, "ppo": 2e-4}
"""Weight decay of sparse agents: twice the source's, which is of squares."""

SCOPES = {"erk": "erdos_renyi_kernel", "uniform": "layer"}


def main() -> None:
    """Writes both tables."""
    options = _options()
    rows = learn(
        planned(_cases(options)),
        table=options.out,
        runs=options.runs,
        episodes=options.episodes,
        more=last_tenth,
    )
    write(options.out.with_stem(f"{options.out.stem}_summary"), summarize(rows))


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    grid = options.seeds, options.tasks, options.fractions, options.methods
    for seed, task, fraction, method in itertools.product(*grid):
        is_sparse = method not in ("dense", "twin")
        for share in options.actor_shares if is_sparse else [None]:
            words = [options.agent, method]
            if method != "dense":
                words.append(f"{fraction:g}")
            if is_sparse:
                words.append(options.scope)
            if share is not None:
                words.append(f"{share:g}")
            config = settings(options, task, method, fraction, share)
            yield " ".join(words), replace(config, seed=seed)


def settings(
    options: argparse.Namespace, task: str, method: str, fraction: float, share: float | None
) -> Config:
    """Makes the config of a method on a task; of what lives, the actor may have a share."""
    published = make_config(task, options.agent)
    steps = int(published.steps or 0 if options.steps is None else options.steps)
    given: dict[str, Any] = {"horizon": HORIZONS.get(task), "steps": steps, "checkpoint_every": 100}
    given |= EIGHT_ENVS if options.agent == "ppo" else {}
    if method == "dense":
        return make_config(task, options.agent, **given)
    if method == "twin":
        hidden = twin(task, published, fraction)
        return make_config(task, options.agent, **given, policy={"hidden": hidden})
    begin, end, every = PRUNING[options.agent]
    shortened = steps / (published.steps or steps)
    chosen: dict[str, Any] = {
        "method": method,
        "fraction": fraction,
        "scope": SCOPES[options.scope],
        "end": round(shortened * end),
    }
    if method == "pruning":
        chosen |= {"begin": round(shortened * begin), "every": every}
    decay = {"weight_decay": DECAY[options.agent]}
    if share is not None:
        chosen["fraction"], of_critics = divided(task, published, fraction, share)
        given["agent"] = given.get("agent", {}) | {"critic_fraction": of_critics}
    return make_config(task, options.agent, **given, sparsity=chosen, optimizer=decay)


def twin(task: str, config: Config, fraction: float) -> list[int]:
    """Finds hidden layers of a dense actor with as many weights as a sparse one."""
    widths = _actor_widths(task, config)
    kernels = sum(map(math.prod, _kernels(widths).values()))
    return list(dense_twin(widths, round((1 - fraction) * kernels) + sum(widths[1:]))[1:-1])


def divided(task: str, config: Config, fraction: float, share: float) -> tuple[float, float]:
    """Computes the fractions zeroed of the actor and of each critic, of which the actor has this
    share of what lives, and which zero this fraction of all weights together.

    Raises:
        ValueError: if the agent has no critic, or a network gets no weight or more than it has.
    """
    if config.agent.name == "dqn":
        raise ValueError("actor_shares is of agents with critics, ppo and sac")
    made, is_sac = make_task(task), config.agent.name == "sac"
    seen, critics = (made.num_features + made.num_actions, 2) if is_sac else (made.num_features, 1)
    actor = _kernels(_actor_widths(task, config))
    critic = _kernels((seen, *config.policy.hidden, 1))
    of_actor, of_critic = (sum(map(math.prod, shapes.values())) for shapes in (actor, critic))
    keep = round((1 - fraction) * (of_actor + critics * of_critic))
    kept = split(actor, critic, keep=keep, actor_share=share, critics=critics)
    return 1 - kept[0] / of_actor, 1 - kept[1] / of_critic


def _actor_widths(task: str, config: Config) -> tuple[int, ...]:
    made = make_task(task)
    outputs = made.num_actions * (2 if config.agent.name == "sac" else 1)
    return (made.num_features, *config.policy.hidden, outputs)


def _kernels(widths: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Shape of the kernel of each layer."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return {str(layer): pair for layer, pair in enumerate(pairs)}


def last_tenth(result: Result) -> Row:
    """Tells the mean return of the last tenth of the evaluations."""
    told = [row.evaluation.mean for row in result.rows if row.evaluation is not None]
    found = [mean for mean in told if mean is not None]
    return {"last": round(fmean(found[-max(1, len(found) // 10) :]), 1)}


def summarize(rows: list[Row]) -> list[Row]:
    """Sums up the seeds of every (task, method), and of every method over all tasks."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        tasks = groups.setdefault(str(row["method"]), {})
        tasks.setdefault(str(row["task"]), []).append(row)
    table = []
    for method, tasks in sorted(groups.items()):
        dense = groups.get(f"{method.split()[0]} dense", {})
        for task, runs in sorted(tasks.items()):
            table.append(_line(method, task, {task: runs}, dense))
        if len(tasks) > 1:
            table.append(_line(method, "all", tasks, dense))
    return sorted(table, key=lambda row: (row["task"] == "all", row["task"]))


def _line(method: str, task: str, tasks: dict[str, list[Row]], dense: dict[str, list[Row]]) -> Row:
    agent, name, *rest = method.split()
    runs = [run for rows in tasks.values() for run in rows]
    last = [float(run["last"]) for run in runs]
    shares = [_shares(rows, dense.get(t, [])) for t, rows in tasks.items()]
    low, high = bootstrap_interval([last], iqm)
    whole = all(shares)
    share = 100 * float(iqm(*map(np.array, shares))) if whole else np.nan
    share_low, share_high = bootstrap_interval(shares, iqm) if whole else (np.nan, np.nan)
    single = task != "all"
    return {
        "task": task,
        "agent": agent,
        "method": name,
        "fraction": rest[0] if rest else "0",
        "scope": rest[1] if len(rest) > 1 else "",
        "actor_share": rest[2] if len(rest) > 2 else "",
        "seeds": min(map(len, tasks.values())),
        "thousand_steps": round(fmean(float(run["steps"]) for run in runs) * 1e-3),
        "seconds": round(fmean(float(run["seconds"]) for run in runs)),
        "last_iqm": _number(iqm(np.array(last))) if single else "",
        "last_low": _number(low) if single else "",
        "last_high": _number(high) if single else "",
        "worst": min(last) if single else "",
        "best": max(last) if single else "",
        "percent_of_dense": _number(share),
        "percent_low": _number(100 * share_low),
        "percent_high": _number(100 * share_high),
    }


def _shares(runs: list[Row], dense: list[Row]) -> list[float]:
    """(R - R_begin) / (R_dense - R_begin) of each run; R_begin is of policies before training."""
    if not dense:
        return []
    begin = fmean(float(str(run["curve"]).split()[0].split(":")[1]) for run in [*runs, *dense])
    full = float(iqm(np.array([float(run["last"]) for run in dense])))
    return [(float(run["last"]) - begin) / (full - begin) for run in runs]


def _number(value: Any) -> Any:
    return "" if np.isnan(value) else round(float(value), 1)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "agents.csv")
    add = parser.add_argument
    add("--agent", default="dqn", choices=["dqn", "sac", "ppo"], help="agent [dqn]")
    add(
        "--tasks",
        type=task_name,
        nargs="+",
        default=["gymnax/Acrobot-v1"],
        help="tasks [gymnax/Acrobot-v1]",
    )
    add("--methods", nargs="+", default=METHODS, choices=METHODS, help="methods [all]")
    add("--fractions", type=float, nargs="+", default=[0.9], help="fractions zeroed [0.9]")
    add("--scope", default="erk", choices=list(SCOPES), help="how layers share them [erk]")
    add(
        "--actor_shares",
        type=float,
        nargs="+",
        default=[None],
        help="shares of what lives that are the actor's [the same fraction of both]",
    )
    add("--steps", type=float, default=None, help="steps of each run [as the preset]")
    add_run_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
