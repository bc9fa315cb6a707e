"""When it is decided which weights live, and which of the others are tried until the next time."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nesht_jax.sparse.top_k import Count, Share, checked_count
from nesht_jax.sparse.units import Units
from nesht_jax.types import Params


@dataclass(frozen=True)
class Decisions:
    """Decisions at updates begin + 1, begin + 1 + every, begin + 1 + 2·every, …, up to ``end``.

    Attributes:
        every: number of updates from one decision to the next.
        begin: number of updates before the first.
        end: number of updates after which there is none; None: no end.
        explore: share of the dead units that may move until the next decision, in proportion to
            what is ``left``; None: all.
    """

    every: Count
    begin: Count
    end: Count | None
    explore: Share | None

    @property
    def are_always(self) -> bool:
        """Whether every update decides, and the same number of weights moves."""
        known = isinstance(self.every, int) and isinstance(self.begin, int)
        return known and (self.every, self.begin, self.end) == (1, 0, None)

    def are_due(self, updates: Int[Array, ""]) -> Bool[Array, ""]:
        """Says whether this update decides, by the number of those before it."""
        since = updates - jnp.asarray(self.begin, jnp.int32)
        due = (since >= 0) & (since % jnp.asarray(self.every, jnp.int32) == 0)
        return due if self.end is None else due & (updates < self.end)

    def are_over(self, updates: Int[Array, ""]) -> Bool[Array, ""]:
        """Says whether the decision of this update is the last."""
        if self.end is None:
            return jnp.asarray(False)
        return updates >= self.end - jnp.asarray(self.every, jnp.int32)

    def left(self, updates: Int[Array, ""]) -> Float[Array, ""]:
        """Computes which share of the updates up to ``end`` is left; 1 where there is no end."""
        if self.end is None:
            return jnp.float32(1)
        return 1 - updates.astype(jnp.float32) / jnp.asarray(self.end, jnp.float32)

    def first_support(self, params: Params) -> Params | None:
        """Gives what may move before the first decision, which is all; None: all, always."""
        if self.explore is None and self.end is None:
            return None
        return all_alive(params)

    def next_support(
        self,
        units: Units,
        alive: Params,
        promising: Params,
        key: Key[Array, ""] | None,
        updates: Int[Array, ""],
    ) -> Params | None:
        """Draws what may move until the next decision; after the last only what lives.

        Args:
            units: what is tried or not as one.
            alive: mask of what lives.
            promising: mask of what is tried anyhow, the living among it.
            key: key of the draw.
            updates: number of updates before this one.

        Raises:
            ValueError: if a share is explored and there is no key.
        """
        if self.explore is not None and key is None:
            raise ValueError("where explore is below 1, update needs key=")
        if self.explore is None and self.end is None:
            return None
        tried = all_alive(promising)
        if self.explore is not None and key is not None:
            share = jnp.asarray(self.explore, jnp.float32) * self.left(updates)
            tried = units.support(promising, key, share)
        if self.end is None:
            return tried
        is_last, alone = self.are_over(updates), units.support(alive, jax.random.key(0), 0.0)
        return jax.tree.map(lambda a, t: jnp.where(is_last, a, t), alone, tried)


def make_decisions(
    every: Count, begin: Count, end: Count | None, explore: Share | None
) -> Decisions:
    """Makes the decisions of a transformation, of which any number may be traced.

    Raises:
        TypeError: if ``every``, ``begin`` or ``end`` is no integer.
        ValueError: if ``every`` is below 1, ``begin`` negative, ``end`` not after it, or
            ``explore`` outside [0, 1].
    """
    every, begin = checked_count("every", every), checked_count("begin", begin, least=0)
    end = None if end is None else checked_count("end", end)
    if isinstance(every, int):
        every = min(every, jnp.iinfo(jnp.int32).max)
    if isinstance(end, int) and isinstance(begin, int) and end <= begin:
        raise ValueError(f"end must be more than begin, {begin}, got {end}")
    if isinstance(explore, int | float | np.floating):
        if not 0 <= explore <= 1:
            raise ValueError(f"explore must be in [0, 1], got {explore}")
        explore = None if explore == 1 else explore
    return Decisions(every, begin, end, explore)


def all_alive(params: Any) -> Params:
    """Gives a mask that is True everywhere."""
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), params)
