"""From which width low-rank perturbations pay: the policies of a batch of members, and the update.

    python benchmarks/low_rank.py

``policy``: one step of many environments, each with the policy of a member of its own, two hidden
layers of the width. ``update``: the members made once and ``tell``, without environment.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from measuring import Row, Table, command, timed

from nesht_jax import State, Task, make_policy, nesht

STEPS = 50
"""Policy steps in one timed call."""


class Measured(NamedTuple):
    """What one width and rank take.

    Attributes:
        d: number of weights.
        policy: seconds of a policy step of all environments.
        update: seconds of an update.
    """

    d: int
    policy: float
    update: float


def main() -> None:
    """Writes the table."""
    options = _options()
    table = Table(options.out)
    for width in options.widths:
        full = measure(width, None, options)
        for rank in options.ranks:
            table.add(row_of(width, rank, full, measure(width, rank, options), options))


def row_of(
    width: int, rank: int, full: Measured, low: Measured, options: argparse.Namespace
) -> Row:
    """Both, and how many times faster the low rank is."""
    row: Row = {"width": width, "d": full.d, "rank": rank}
    row |= {"num_envs": options.num_envs, "num_members": options.num_members}
    for part in ("policy", "update"):
        slow, fast = getattr(full, part), getattr(low, part)
        row[f"{part}_full_ms"] = round(1e3 * slow, 4)
        row[f"{part}_low_rank_ms"] = round(1e3 * fast, 4)
        row[f"{part}_times_faster"] = round(slow / fast, 2)
    return row


def measure(width: int, rank: int | None, options: argparse.Namespace) -> Measured:
    """Times policy and update."""
    policy = make_policy(task_of(options), hidden=(width, width))
    algorithm = nesht(
        num_members=options.num_members, sigma=0.1, optimizer=optax.adam(0.01), rank=rank
    )
    state = algorithm.init(jax.random.key(0), policy.init(jax.random.key(1)))
    fitness = jax.random.normal(jax.random.key(2), (options.num_members,))

    @jax.jit
    def policies(state: State, drawn: Any) -> Array:
        population = algorithm.population(state)

        def step(x: Array, _: None) -> tuple[Array, None]:
            act = jax.vmap(lambda drawn, x: policy.apply(population.assemble(drawn), None, x))
            return x.at[:, : options.actions].set(act(drawn, x)), None

        return jax.lax.scan(step, jnp.ones((options.num_envs, options.features)), length=STEPS)[0]

    @jax.jit
    def update(state: State) -> Any:
        members = jnp.arange(options.num_members)
        made = jax.lax.map(algorithm.population(state).draw, members, batch_size=8)
        return algorithm.tell(state, fitness + _sum(made))

    envs = jnp.arange(options.num_envs)
    drawn = jax.jit(lambda state: jax.vmap(algorithm.population(state).draw)(envs))(state)
    return Measured(
        d=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        policy=timed(lambda: policies(state, drawn), repeats=options.repeats).median / STEPS,
        update=timed(lambda: update(state), repeats=options.repeats).median,
    )


def task_of(options: argparse.Namespace) -> Task:
    """A task of the sizes that are asked for, which nobody plays."""
    bound = np.ones(options.actions, np.float32)
    return Task(
        name="low_rank",
        options={},
        observation_size=options.features,
        action_low=-bound,
        action_high=bound,
        discrete=False,
        horizon=None,
    )


def _sum(made: Any) -> Float[Array, " m"]:
    """The sum of every member's entries, so that none is left out as unused."""
    sums = [leaf.reshape(len(leaf), -1).sum(1) for leaf in jax.tree.leaves(made)]
    return jnp.stack(sums).sum(0)


def _options() -> argparse.Namespace:
    parser = command(__doc__, "low_rank.csv")
    add, widths = parser.add_argument, [16, 32, 64, 128, 256, 512]
    shown = " ".join(map(str, widths))
    add("--widths", type=int, nargs="+", default=widths, help=f"widths of the layers [{shown}]")
    add("--ranks", type=int, nargs="+", default=[1, 4], help="ranks beside full rank [1 4]")
    add("--features", type=int, default=17, help="features of an observation [17]")
    add("--actions", type=int, default=6, help="components of an action [6]")
    add("--num_envs", type=int, default=64, help="environments that step at once [64]")
    add("--num_members", type=int, default=256, help="members of an update [256]")
    add("--repeats", type=int, default=7, help="timed calls [7]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
