"""Useful share of simulated steps in generation 1, and wall time against the masked scan.

    python benchmarks/share.py

The masked scan steps every member to the horizon and ignores what comes after the end: its time is
that of ``--masked-steps`` of its steps, all alike, times horizon over these.
"""

import argparse
from pathlib import Path

import jax
from bare import scan, zero_actions
from table import timed, write

from nesht_jax.contract import Evaluation
from nesht_jax.envs import make_environment, task_spec
from nesht_jax.envs.compiler import compiler_options
from nesht_jax.envs.queue import default_slots
from nesht_jax.envs.task import episode_length
from nesht_jax.nesht import generation_keys
from nesht_jax.run.build import build
from nesht_jax.run.config import Config


def main() -> None:
    options = _parse()
    rows = []
    for members in options.members:
        for task in options.tasks:
            masked, horizon = masked_seconds(task, members, options)
            for slots in options.slots or [usual_slots(task, members)]:
                row = measure(task, members, slots, options)
                rows.append(row | against(row, masked, horizon))
                print(rows[-1], flush=True)
                write(options.out, rows)


def usual_slots(task: str, members: int) -> int:
    """Those of a room in JAX that is told none."""
    return default_slots(members, terminates=task_spec(task).terminates)


def measure(task: str, members: int, slots: int, options: argparse.Namespace) -> dict:
    """The queue."""
    config = Config(
        task=task, noise=options.noise, members=members, slots=slots, horizon=options.horizon
    )
    setup = build(config)
    state = setup.state
    _, key = generation_keys(state)
    members_now = setup.algorithm.members(state)
    evaluate = jax.jit(setup.evaluate, compiler_options=compiler_options())
    plays: list[Evaluation] = []

    def play() -> Evaluation:
        plays.append(evaluate(key, members_now, state.moments))
        return plays[-1]

    queue = timed(play, repeats=options.repeats)
    played = plays[-1]
    steps, simulated = int(played.steps.sum()), int(played.simulated)
    return {
        "task": task,
        "members": members,
        "slots": slots,
        "useful_steps": steps,
        "longest_episode": int(played.steps.max()),
        "useful_share": round(steps / simulated, 3),
        "seconds": round(queue.median, 3),
        "seconds_low": round(queue.low, 3),
        "seconds_high": round(queue.high, 3),
        "first_seconds": round(queue.first, 1),
        "useful_steps_per_second": round(steps / queue.median),
    }


def against(row: dict, masked: float, horizon: int) -> dict:
    """The same generation in the masked scan."""
    return {
        "useful_share_masked": round(row["useful_steps"] / (row["members"] * horizon), 4),
        "masked_seconds": round(masked, 2),
        "times_shorter": round(masked / row["seconds"], 1),
    }


def masked_seconds(task: str, members: int, options: argparse.Namespace) -> tuple[float, int]:
    """Of stepping every member to the horizon, with zero actions and no policy: it flatters the
    scan. And the horizon."""
    horizon = episode_length(make_environment(task).spec, options.horizon)
    actions = zero_actions(task, members)[: options.masked_steps]
    some = timed(scan(task, actions), repeats=1)
    return some.median * horizon / options.masked_steps, horizon


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = ["mjx/hopper", "mjx/walker2d", "mjx/ant", "mjx/humanoid"]
    parser.add_argument("--tasks", nargs="+", default=tasks)
    parser.add_argument("--members", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--noise", type=int, default=5)
    parser.add_argument("--slots", type=int, nargs="+", help="instead of the default number")
    parser.add_argument("--horizon", type=int, help="instead of the task's own")
    parser.add_argument("--masked-steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/share.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
