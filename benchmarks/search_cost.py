"""What an architecture search costs a generation: proposals and the controller's update.

    python benchmarks/search_cost.py

Times, at HalfCheetah's size (17 features, 32 hidden units, 6 actions: 736 edges) and the paper's
150 members, a whole generation's proposals, made into kernels, and the update of the controller,
beside a whole generation of episodes of the same size.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
from measuring import Row, Table, command, task_name, timed

from nesht_jax import State, make_config
from nesht_jax.run.build import Experiment, build, build_training
from nesht_jax.run.config import Config
from nesht_jax.run.generations import strategy
from nesht_jax.types import HostEvaluate

SPACES = {
    "edges": ["edges"],
    "colors": ["colors"],
    "mask": ["mask"],
    "edges+functions": ["edges", "activations"],
}


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    generation = generation_seconds(options.task)
    for space in SPACES:
        for controller in ("evolution", "policy_gradient", "random"):
            table.add(measure(options.task, space, controller, generation, options.repeats))


def settings(task: str, **given: Any) -> tuple[Config, Experiment]:
    """Makes an experiment with the paper's settings, but for what is given."""
    config = make_config(task, "es-enas-pruning", steps=10**6, **given)
    return config, build(config)


def measure(task: str, space: str, controller: str, generation: float, repeats: int) -> Row:
    """Times one search."""
    chosen = {"space": SPACES[space], "controller": controller}
    config, experiment = settings(task, search=chosen)
    search: Any = experiment.search
    state, p = experiment.state, config.num_played
    everybody, key = jnp.arange(p, dtype=jnp.int32), jax.random.key(1)

    @jax.jit
    def propose(state: Any) -> Any:
        def member(i: Any) -> Any:
            architecture = search.controller.propose(state.search, key, i)
            return search.structure.materialize(architecture, state.params)

        return jax.vmap(member)(everybody)

    @jax.jit
    def update(state: Any, architectures: Any) -> Any:
        fitness = jnp.cos(everybody.astype(jnp.float32))
        return search.controller.update(state.search, key, architectures, fitness)

    architectures = jax.vmap(lambda i: search.controller.propose(state.search, key, i))(everybody)
    proposals = timed(lambda: propose(state), repeats=repeats).median
    updates = timed(lambda: update(state, architectures), repeats=repeats).median
    return {
        "space": space,
        "controller": controller,
        "members": p,
        "edges": search.structure.num_edges,
        "propose_ms": round(1e3 * proposals, 2),
        "update_ms": round(1e3 * updates, 2),
        "generation_s": round(generation, 2),
        "share": round((proposals + updates) / generation, 5),
    }


def generation_seconds(task: str) -> float:
    """Times the episodes of one generation of as many members, where nothing is searched."""
    members = {"algorithm": {"num_members": settings(task)[0].num_played}}
    config, experiment = settings(task, search={"space": []}, **members)
    evaluate = build_training(config, experiment)
    state, key, population = experiment.state, jax.random.key(0), strategy(experiment).population
    assert isinstance(state, State)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        evaluation = evaluate(key, population(state), state.moments)
        jax.block_until_ready(evaluation.fitness)
        seconds.append(time.perf_counter() - started)
    if isinstance(evaluate, HostEvaluate):
        evaluate.close()
    return min(seconds)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "search_cost.csv")
    parser.add_argument(
        "--task", type=task_name, default="envpool/HalfCheetah-v4", help="task of the generation"
    )
    parser.add_argument("--repeats", type=int, default=20, help="repetitions of each timing [20]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
