"""Useful share of simulated steps in generation 1, and wall time against the masked scan.

    python benchmarks/share.py

The masked scan steps every member to the horizon and ignores what comes after the end: its time is
that of ``--masked_steps`` of its steps, all alike, times horizon over these.
"""

import argparse

import jax
from loops import scan, usual_num_envs, zero_actions
from measuring import Row, Table, command, task_name, timed

from nesht_jax.envs.compiler import compiler_options
from nesht_jax.es.nes import State, generation_keys
from nesht_jax.run.build import build, build_task, build_training
from nesht_jax.run.config import Config
from nesht_jax.run.generations import strategy
from nesht_jax.run.sections import AlgorithmConfig
from nesht_jax.types import Evaluation, Task


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    for num_members in options.num_members:
        for name in options.tasks:
            task = build_task(config_of(name, num_members, options))
            masked = masked_seconds(task, num_members, options.masked_steps)
            for num_envs in options.num_envs or [usual_num_envs(task, num_members)]:
                config = config_of(name, num_members, options, num_envs)
                row, seconds = measure(config, options.repeats)
                share = row["useful_steps"] / (num_members * (task.horizon or 1))
                table.add(
                    row
                    | {
                        "useful_share_masked": round(share, 4),
                        "masked_seconds": round(masked, 2),
                        "times_shorter": round(masked / seconds, 1),
                    }
                )


def config_of(
    task: str, num_members: int, options: argparse.Namespace, num_envs: int | None = None
) -> Config:
    """The run whose first generation is played."""
    return Config(
        task=task,
        distractors=options.distractors,
        horizon=options.horizon,
        num_envs=num_envs,
        algorithm=AlgorithmConfig(num_members=num_members),
    )


def measure(config: Config, repeats: int) -> tuple[Row, float]:
    """Times the queue; gives its columns, and its seconds as they are."""
    experiment = build(config)
    state = experiment.state
    assert isinstance(state, State)
    _, key = generation_keys(state)
    population = strategy(experiment).population(state)
    training = build_training(config, experiment)
    evaluate = jax.jit(training, compiler_options=compiler_options())
    plays: list[Evaluation] = []

    def play() -> Evaluation:
        plays.append(evaluate(key, population, state.moments))
        return plays[-1]

    queue = timed(play, repeats=repeats)
    played = plays[-1]
    steps = int(played.steps.sum())
    row = {
        "task": config.task,
        "num_members": config.algorithm.num_members,
        "num_envs": config.num_envs,
        "useful_steps": steps,
        "longest_episode": int(played.steps.max()),
        "useful_share": round(steps / int(played.simulated_steps), 3),
        "seconds": round(queue.median, 3),
        "seconds_low": round(queue.low, 3),
        "seconds_high": round(queue.high, 3),
        "first_seconds": round(queue.first, 1),
        "useful_steps_per_second": round(steps / queue.median),
    }
    return row, queue.median


def masked_seconds(task: Task, num_members: int, steps: int) -> float:
    """Seconds of stepping every member to the horizon, timed on a few steps, with zero actions and
    no policy: it flatters the scan."""
    some = timed(scan(task, zero_actions(task, num_members)[:steps]), repeats=1)
    return some.median * (task.horizon or 1) / steps


def _options() -> argparse.Namespace:
    parser = command(__doc__, "share.csv")
    add, tasks = parser.add_argument, ["mjx/hopper", "mjx/walker2d", "mjx/ant", "mjx/humanoid"]
    add(
        "--tasks",
        type=task_name,
        nargs="+",
        default=tasks,
        help=f"tasks in JAX [{' '.join(tasks)}]",
    )
    add("--num_members", type=int, nargs="+", default=[256, 4096], help="members [256 4096]")
    add("--num_envs", type=int, nargs="+", help="environments at once; else the suite's choice")
    add("--distractors", type=int, default=5, help="number N of distractors [5]")
    add("--horizon", type=int, help="steps after which episodes are cut; else the task's own")
    add("--masked_steps", type=int, default=20, help="steps of the masked scan that are timed [20]")
    add("--repeats", type=int, default=3, help="timed plays of the queue [3]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
