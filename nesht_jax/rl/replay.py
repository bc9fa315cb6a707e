"""The replay buffer: a ring of the newest transitions, in plain arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from nesht_jax.rl.agent import Experience
from nesht_jax.types import Task


class Replay(NamedTuple):
    """The newest transitions, each at place (number of those before it) modulo capacity.

    Attributes:
        transitions: what is kept, leading axis capacity, each field in the dtype that it came in;
            zeros where nothing has been stored yet.
        added: transitions stored so far, those overwritten included, less whole rounds beyond the
            first: it stays below twice the capacity.
    """

    transitions: Experience
    added: Int[Array, ""]


def empty_experience(task: Task, *leading: int) -> Experience:
    """Makes experience of zeros with these leading axes."""
    seen = jnp.zeros((*leading, task.num_features), jnp.float32)
    action = jnp.zeros((*leading, task.num_actions), jnp.float32)
    reward, ended = jnp.zeros(leading, jnp.float32), jnp.zeros(leading, bool)
    return Experience(seen, action, reward, seen, ended, ended)


def make_replay(transitions: Experience) -> Replay:
    """Makes an empty replay with the capacity, the shapes and the dtypes of these transitions."""
    return Replay(transitions, jnp.zeros((), jnp.int32))


def extend(replay: Replay, experience: Experience) -> Replay:
    """Stores one transition of each environment over the oldest.

    In a compiled loop, or where the replay is donated, it is written in place.

    Raises:
        ValueError: if there are more environments than places.
    """
    capacity, num_new = len(replay.transitions.reward), len(experience.reward)
    if num_new > capacity:
        raise ValueError(f"replay_size must be at least num_envs, {num_new}, got {capacity}")
    places = (replay.added + jnp.arange(num_new, dtype=jnp.int32)) % capacity
    transitions = jax.tree.map(
        lambda kept, new: kept.at[places].set(new), replay.transitions, experience
    )
    added = replay.added + num_new
    return Replay(transitions, jnp.where(added < 2 * capacity, added, added - capacity))


def sample(replay: Replay, key: Key[Array, ""], batch_size: int) -> Experience:
    """Draws transitions uniformly, with replacement, from what has been stored.

    Args:
        replay: replay that holds at least one transition.
        key: key of the draw, consumed whole.
        batch_size: transitions to draw.
    """
    stored = jnp.minimum(replay.added, len(replay.transitions.reward))
    places = jax.random.randint(key, (batch_size,), 0, stored, jnp.int32)
    return jax.tree.map(lambda kept: kept[places], replay.transitions)
