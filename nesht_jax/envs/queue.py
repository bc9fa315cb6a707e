"""Many episodes on few simulators: a slot whose episode ends takes the next one that waits."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from nesht_jax import normalize

STORED_ENTRIES = 2**26
"""Entries of a population that is kept while it plays: 256 MiB in float32. The members of a larger
one are regenerated as their episodes begin."""


class Slot(NamedTuple):
    """One simulator and the episode that it plays.

    Attributes:
        episode: number of the episode; their total if the slot has none.
        words: of all that is drawn on the episode's way.
        state: of the simulator.
        observation: what the task shows, without noise features.
        steps: done in the episode.
        fitness: return so far.
        ended: the last step was the episode's last.
    """

    episode: Int[Array, "*slots"]
    words: UInt32[Array, "*slots 2 2"]
    state: Any
    observation: Float[Array, "*slots o"]
    steps: Int[Array, "*slots"]
    fitness: Float[Array, "*slots"]
    ended: Bool[Array, "*slots"]


class Played(NamedTuple):
    """What the episodes came to.

    Attributes:
        fitness: return of each.
        steps: length of each.
        simulated: steps of all slots together, idle ones included.
        observed: moments of what the policies acted on, if asked for.
    """

    fitness: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    simulated: Int[Array, ""]
    observed: normalize.Moments | None


Own = Any
"""What a slot holds of its member: see ``contract.Members``."""

Step = Callable[[Slot, Own], tuple[Slot, Float[Array, " features"]]]
"""``(slot, own) -> (slot a step later, what the policy saw)``."""

Seat = Callable[[Own, Bool[Array, " slots"], Int[Array, " slots"]], Own]
"""``(own, changes, episodes) -> own``: of the members who play the episodes, in the
slots that change."""


def default_slots(num_episodes: int, *, terminates: bool) -> int:
    """How many episodes to play at once.

    A CPU is busy with few, and every slot more lengthens the tail, in which no episode waits and
    the last ones play on beside idle slots. Where none ends before the others there is no tail:
    then they are dealt out evenly. An accelerator steps thousands in the time of one.
    """
    most = 64 if jax.default_backend() == "cpu" else 4096
    if not terminates:
        turns = -(-num_episodes // most)
        return -(-num_episodes // turns)
    if jax.default_backend() == "cpu":
        return min(num_episodes, max(8, min(most, num_episodes // 32)))
    return min(num_episodes, most)


class _Table(NamedTuple):
    """The state of the loop: slots, and what lies beside them."""

    slots: Slot
    own: Own
    observed: normalize.Moments | None
    waiting: Int[Array, ""]
    fitness: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    rounds: Int[Array, ""]


def play(episodes: Slot, step: Step, seat: Seat, *, slots: int, observes: bool) -> Played:
    """Plays every episode once, in one loop with one compilation.

    An episode does not depend on the slot that plays it, nor on how many there are, but for the
    order in which a batch of another size is summed.

    Args:
        episodes: all of them as they begin, numbered from 0; leading axis episode.
        step: of one slot.
        seat: see ``seating``.
        slots: how many play at once, at most.
        observes: gather the moments of what the policies act on.
    """
    (total,) = episodes.steps.shape
    size = min(slots, total)
    numbers = jnp.arange(size)
    own = seat(None, numbers >= 0, numbers)
    moved, seen = jax.eval_shape(jax.vmap(step), jax.tree.map(lambda x: x[:size], episodes), own)
    # a reset and a step differ in weak types: without this the loop would not type-check
    episodes = _typed_as(moved, episodes)

    def round_(table: _Table) -> _Table:
        busy = table.slots.episode < total
        moved, seen = jax.vmap(step)(table.slots, table.own)
        observed = table.observed
        if observed is not None:
            observed = jax.vmap(_where)(busy, jax.vmap(normalize.add)(observed, seen), observed)
        moved = moved._replace(ended=moved.ended & busy)
        table = table._replace(slots=moved, observed=observed, rounds=table.rounds + 1)
        return jax.lax.cond(moved.ended.any(), take_next, lambda table: table, table)

    def take_next(table: _Table) -> _Table:
        ended, episode = table.slots.ended, table.slots.episode
        following = table.waiting + jnp.cumsum(ended) - 1
        begins = ended & (following < total)
        fresh = jax.tree.map(lambda x: x[jnp.minimum(following, total - 1)], episodes)
        idle = table.slots._replace(
            episode=jnp.where(ended, total, episode), ended=jnp.zeros_like(ended)
        )
        done = jnp.where(ended, episode, total)
        return table._replace(
            slots=jax.vmap(_where)(begins, fresh, idle),
            own=seat(table.own, begins, following),
            waiting=table.waiting + ended.sum(),
            fitness=table.fitness.at[done].set(table.slots.fitness, mode="drop"),
            steps=table.steps.at[done].set(table.slots.steps, mode="drop"),
        )

    first = _Table(
        slots=jax.tree.map(lambda x: x[:size], episodes),
        own=own,
        observed=_many(normalize.empty(seen.shape[1]), size) if observes else None,
        waiting=jnp.int32(size),
        fitness=jnp.zeros(total),
        steps=jnp.zeros(total, jnp.int32),
        rounds=jnp.int32(0),
    )
    last = jax.lax.while_loop(lambda table: (table.slots.episode < total).any(), round_, first)
    observed = None if last.observed is None else normalize.merge_all(last.observed)
    return Played(last.fitness, last.steps, last.rounds * size, observed)


def seating(own_of: Callable[[Int[Array, ""]], Own], *, num_members: int, rollouts: int) -> Seat:
    """Gives a slot what the member has of its own whose episode it begins: episode // rollouts.

    From the stored population if that is small, else regenerated one by one, to the same bits.
    """
    like = jax.eval_shape(own_of, jnp.int32(0))
    if num_members * sum(leaf.size for leaf in jax.tree.leaves(like)) <= STORED_ENTRIES:
        population = jax.vmap(own_of)(jnp.arange(num_members))

        def seat(own: Own, changes: Array, episodes: Array) -> Own:
            members = jnp.minimum(episodes // rollouts, num_members - 1)
            chosen = jax.tree.map(lambda x: x[members], population)
            return chosen if own is None else jax.vmap(_where)(changes, chosen, own)

        return seat

    def seat_one_by_one(own: Own, changes: Array, episodes: Array) -> Own:
        def one(slot: tuple[Own, Array, Array]) -> Own:
            before, changes, i = slot
            return jax.lax.cond(changes, lambda: own_of(i), lambda: before)

        if own is None:
            return jax.lax.map(own_of, episodes // rollouts)
        return jax.lax.map(one, (own, changes, episodes // rollouts))

    return seat_one_by_one


def _many(one: Any, size: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), one)


def _where(condition: Bool[Array, ""], yes: Any, no: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def _typed_as(like: Any, tree: Any) -> Any:
    """``tree`` with the dtypes of ``like`` and no weak types, so that a loop compiles once."""

    def typed(x: Array, t: jax.ShapeDtypeStruct) -> Array:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else jax.lax.convert_element_type(x, t.dtype)

    return jax.tree.map(typed, tree, like)
