"""From which width low-rank perturbations pay: the policies of a batch of members, and the update.

    python benchmarks/low_rank.py

``policy``: one step of every slot's own policy, two hidden layers of the width. ``update``: the
members made once and ``tell``, without environment.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from table import timed, write

from nesht_jax import make_policy, nesht
from nesht_jax.normalize import none

STEPS = 50
"""Policy steps in one timed call."""


def main() -> None:
    options = _parse()
    rows = []
    for width in options.widths:
        full = measure(width, None, options)
        for rank in options.ranks:
            low = measure(width, rank, options)
            rows.append(row(width, rank, full, low, options))
            print(rows[-1], flush=True)
            write(options.out, rows)


def row(width: int, rank: int, full: dict, low: dict, options: argparse.Namespace) -> dict:
    """Both, and how many times faster the low rank is."""
    made = {"width": width, "d": full["d"], "rank": rank, "slots": options.slots}
    made["members"] = options.members
    for part in ("policy", "update"):
        made[f"{part}_full_ms"] = round(1e3 * full[part].median, 4)
        made[f"{part}_low_rank_ms"] = round(1e3 * low[part].median, 4)
        made[f"{part}_times_faster"] = round(full[part].median / low[part].median, 2)
    return made


def measure(width: int, rank: int | None, options: argparse.Namespace) -> dict:
    """Seconds of a policy step of all slots, and of an update."""
    bounds = np.ones(options.actions)
    policy = make_policy(
        options.features, -bounds, bounds, hidden=(width, width), normalizer=none()
    )
    algorithm = nesht(num_members=options.members, sigma=0.1, optimizer=optax.adam(0.01), rank=rank)
    state = algorithm.init(jax.random.key(0), policy.init(jax.random.key(1)))
    fitness = jax.random.normal(jax.random.key(2), (options.members,))
    slots = jnp.arange(options.slots)

    @jax.jit
    def policies(state, own):
        members = algorithm.members(state)

        def step(x, _):
            act = jax.vmap(lambda own, x: policy.apply(members.params(own), None, x))
            return x.at[:, : options.actions].set(act(own, x)), None

        x = jnp.ones((options.slots, options.features))
        return jax.lax.scan(step, x, length=STEPS)[0]

    @jax.jit
    def update(state):
        made = jax.lax.map(algorithm.members(state).own, jnp.arange(options.members), batch_size=8)
        return algorithm.tell(state, fitness + _sum(made))

    own = jax.jit(lambda state: jax.vmap(algorithm.members(state).own)(slots))(state)
    step = timed(lambda: policies(state, own), repeats=options.repeats)
    return {
        "d": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "policy": step._replace(median=step.median / STEPS),
        "update": timed(lambda: update(state), repeats=options.repeats),
    }


def _sum(made):
    """Of every member's entries, so that none is left out as unused."""
    return sum(leaf.reshape(len(leaf), -1).sum(1) for leaf in jax.tree.leaves(made))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--features", type=int, default=17)
    parser.add_argument("--actions", type=int, default=6)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/low_rank.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
