"""Many episodes on few environments: one whose episode ends takes the next episode that waits."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from nesht_jax.types import Moments

STORED_ENTRIES = 2**26
"""Entries of a population that is kept while it plays: 256 MiB in float32. The members of a larger
one are regenerated as their episodes begin."""


class Episode(NamedTuple):
    """One episode on its way, and the simulator that plays it.

    Attributes:
        number: index of the episode; their total where an environment has none left to play.
        random_bits: bits from which all is drawn on the episode's way: distractors, action noise.
        state: state of the simulator.
        observation: what the task shows now, without distractors.
        last_action: what was done in the step before, see ``distractors.no_action``.
        steps: steps done.
        returns: undiscounted sum of rewards so far; NaN if the episode failed.
        terminated: whether the task has terminated it.
        ended: whether the step before was the last.
    """

    number: Int[Array, "*envs"]
    random_bits: UInt32[Array, "*envs 2 2"]
    state: Any
    observation: Float[Array, "*envs o"]
    last_action: Float[Array, "*envs _"]
    steps: Int[Array, "*envs"]
    returns: Float[Array, "*envs"]
    terminated: Bool[Array, "*envs"]
    ended: Bool[Array, "*envs"]


class Played(NamedTuple):
    """What the episodes came to.

    Attributes:
        returns: return of each episode; NaN if it failed.
        steps: length of each episode.
        terminated: whether the task terminated each episode.
        simulated_steps: steps of all environments together, idle ones included.
        observed: moments of what the policies acted on; None if not asked for.
    """

    returns: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    terminated: Bool[Array, " episodes"]
    simulated_steps: Int[Array, ""]
    observed: Moments | None


Drawn = Any
"""What an environment holds of the member that plays in it: see ``types.Population``."""

Step = Callable[[Episode, Drawn], tuple[Episode, Float[Array, " features"]]]
"""``(episode, drawn) -> (the episode a step later, what the policy saw)``."""

AssignMembers = Callable[[Drawn, Bool[Array, " envs"], Int[Array, " envs"]], Drawn]
"""``(drawn, changes, episodes) -> drawn``: where an environment changes, that of the member who
plays the episode; ``drawn`` is None at first."""


def default_num_envs(num_episodes: int, *, terminates: bool) -> int:
    """Chooses how many episodes to play at once.

    A CPU is busy with few, and every environment more lengthens the tail, in which no episode waits
    and the last ones play on beside idle environments. Where none ends before the others there is
    no tail: then they are dealt out evenly. An accelerator steps thousands in the time of one.
    """
    most = most_envs()
    if not terminates:
        turns = -(-num_episodes // most)
        return -(-num_episodes // turns)
    if jax.default_backend() == "cpu":
        return min(num_episodes, max(8, min(most, num_episodes // 32)))
    return min(num_episodes, most)


def most_envs() -> int:
    """Gives the number of environments that keep a device busy."""
    return 64 if jax.default_backend() == "cpu" else 4096


class LoopState(NamedTuple):
    """What the loop hands from one round, a step of every environment, to the next.

    Attributes:
        playing: episodes now played, an environment each.
        drawn: what their members have of their own.
        observed: moments of what was seen in each environment; None if not asked for.
        waiting: number of the first episode that waits.
        returns: return of each episode that ended.
        steps: length of each episode that ended.
        terminated: whether the task terminated it.
        rounds: rounds done.
    """

    playing: Episode
    drawn: Drawn
    observed: Moments | None
    waiting: Int[Array, ""]
    returns: Float[Array, " episodes"]
    steps: Int[Array, " episodes"]
    terminated: Bool[Array, " episodes"]
    rounds: Int[Array, ""]


def play(
    episodes: Episode,
    step: Step,
    assign_members: AssignMembers,
    *,
    num_envs: int,
    gather_moments: bool,
) -> Played:
    """Plays every episode once, in one loop with one compilation.

    An episode does not depend on the environment that plays it, nor on how many there are, but for
    the order in which a batch of another size is summed.

    Args:
        episodes: all episodes as they begin, numbered from 0; leading axis episode.
        step: one step of one episode.
        assign_members: see ``make_assign_members``.
        num_envs: most episodes played at once.
        gather_moments: whether to gather the moments of what the policies act on.
    """
    (total,) = episodes.steps.shape
    size = min(num_envs, total)
    numbers = jnp.arange(size, dtype=jnp.int32)
    drawn = assign_members(None, numbers >= 0, numbers)
    first, seen = jax.eval_shape(jax.vmap(step), jax.tree.map(lambda x: x[:size], episodes), drawn)
    # a reset and a step differ in weak types: without this the loop would not type-check
    episodes = _typed_as(first, episodes)

    def advance(loop: LoopState) -> LoopState:
        busy = loop.playing.number < total
        playing, seen = jax.vmap(step)(loop.playing, loop.drawn)
        playing = playing._replace(ended=playing.ended & busy)
        observed = _observe(loop.observed, seen, busy)
        rounds = loop.rounds + busy.any().astype(jnp.int32)
        loop = loop._replace(playing=playing, observed=observed, rounds=rounds)
        return jax.lax.cond(
            _anywhere(playing.ended.any()),
            lambda: _take_next(loop, episodes, assign_members),
            lambda: loop,
        )

    loop = LoopState(
        playing=jax.tree.map(lambda x: x[:size], episodes),
        drawn=drawn,
        observed=_many(Moments.empty(seen.shape[1]), size) if gather_moments else None,
        waiting=jnp.int32(size),
        returns=jnp.zeros(total, jnp.float32),
        steps=jnp.zeros(total, jnp.int32),
        terminated=jnp.zeros(total, bool),
        rounds=jnp.int32(0),
    )
    loop = jax.lax.while_loop(
        lambda loop: _anywhere((loop.playing.number < total).any()), advance, loop
    )
    observed = None if loop.observed is None else loop.observed.merge_all()
    return Played(loop.returns, loop.steps, loop.terminated, loop.rounds * size, observed)


@jax.custom_batching.custom_vmap
def _anywhere(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag; under ``vmap``, whether it is set in any of the batch.

    ``vmap`` turns a branch into a choice between both results, computed at every step. Here both
    are the same where the flag is not set, so that one branch does for the whole batch.
    """
    return flag


@_anywhere.def_vmap
def _(
    axis_size: int, in_batched: list[bool], flags: Bool[Array, " batch"]
) -> tuple[Bool[Array, ""], bool]:
    return flags.any(), False


def _observe(
    observed: Moments | None, seen: Float[Array, "envs features"], busy: Bool[Array, " envs"]
) -> Moments | None:
    """Adds what was seen, but no row of an idle environment and none that is not finite."""
    if observed is None:
        return None
    counted = busy & jnp.isfinite(seen).all(1)
    return jax.vmap(_where)(counted, jax.vmap(Moments.add)(observed, seen), observed)


def _take_next(loop: LoopState, episodes: Episode, assign_members: AssignMembers) -> LoopState:
    """Notes the episodes that ended and begins those that waited, in their order."""
    (total,) = loop.steps.shape
    playing, ended = loop.playing, loop.playing.ended
    following = loop.waiting + jnp.cumsum(ended, dtype=jnp.int32) - 1
    begins = ended & (following < total)
    fresh = jax.tree.map(lambda x: x[jnp.minimum(following, total - 1)], episodes)
    idle = playing._replace(
        number=jnp.where(ended, total, playing.number), ended=jnp.zeros_like(ended)
    )
    done = jnp.where(ended, playing.number, total)  # the others are out of bounds, and dropped
    return loop._replace(
        playing=jax.vmap(_where)(begins, fresh, idle),
        drawn=assign_members(loop.drawn, begins, following),
        waiting=loop.waiting + ended.sum(dtype=jnp.int32),
        returns=loop.returns.at[done].set(playing.returns, mode="drop"),
        steps=loop.steps.at[done].set(playing.steps, mode="drop"),
        terminated=loop.terminated.at[done].set(playing.terminated, mode="drop"),
    )


def make_assign_members(
    draw: Callable[[Int[Array, ""]], Drawn], *, num_members: int, episodes_per_member: int
) -> AssignMembers:
    """Gives an environment what the member has of its own whose episode it begins.

    From the stored population if that is small, else regenerated one by one, to the same bits.

    Args:
        draw: see ``types.Population``.
        num_members: number m of members.
        episodes_per_member: episodes that follow one another of each member.
    """
    like = jax.eval_shape(draw, jnp.int32(0))
    if num_members * sum(leaf.size for leaf in jax.tree.leaves(like)) <= STORED_ENTRIES:
        population = jax.vmap(draw)(jnp.arange(num_members, dtype=jnp.int32))

        def assign(drawn: Drawn, changes: Array, episodes: Array) -> Drawn:
            members = jnp.minimum(episodes // episodes_per_member, num_members - 1)
            chosen = jax.tree.map(lambda x: x[members], population)
            return chosen if drawn is None else jax.vmap(_where)(changes, chosen, drawn)

        return assign

    def assign_one_by_one(drawn: Drawn, changes: Array, episodes: Array) -> Drawn:
        members = episodes // episodes_per_member
        if drawn is None:
            return jax.lax.map(draw, members)
        # a map, not a vmap, which would draw for every environment and hold all that at once
        return jax.lax.map(
            lambda env: jax.lax.cond(env[1], lambda: draw(env[2]), lambda: env[0]),
            (drawn, changes, members),
        )

    return assign_one_by_one


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
