"""A population in shares where the simulator is outside JAX: those of a process, one by one."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from nesht_jax.run import processes
from nesht_jax.shares import combined
from nesht_jax.types import Evaluation, HostEvaluate, Moments, Population


class HostShares:
    """Plays the shares of this process one after another, and gathers those of all.

    Each has simulators of its own, so that what it plays does not depend on the process.

    Args:
        make: number of a share -> what plays it.
        size: members of a share.
        shares: shares of the population.
        mesh: mesh that the evaluation is given back on.
    """

    def __init__(
        self, make: Callable[[int], HostEvaluate], *, size: int, shares: int, mesh: Mesh
    ) -> None:
        self._parts = {share: make(share) for share in processes.own_shares(shares)}
        self._size, self._mesh = size, mesh
        self._has_compiled = False
        self._longest: float | None = None

    def seek(self, calls: int) -> None:
        """Makes the next call number ``calls``."""
        for part in self._parts.values():
            part.seek(calls)

    def close(self) -> None:
        """Frees the simulators."""
        for part in self._parts.values():
            part.close()

    def __call__(
        self,
        key: Key[Array, ""],
        population: Population,
        moments: Moments | None,
        *,
        horizon: Int[Array, ""] | None = None,
    ) -> Evaluation:
        """Plays every episode of the population, on all processes together.

        Raises:
            LostProcessError: if another process does not play its shares.
        """
        key, population, moments = processes.local((key, population, moments))
        asked = {} if horizon is None else {"horizon": processes.local(horizon)}
        begun = time.monotonic()
        played = [
            part(key, population.share(share * self._size), moments, **asked)
            for share, part in self._parts.items()
        ]
        own = jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x]), *played)
        if self._has_compiled:
            self._longest = max(self._longest or 0.0, time.monotonic() - begun)
        self._has_compiled = True
        every: Any = jax.tree.map(jnp.asarray, processes.gathered(own, longest=self._longest))
        return processes.replicated(combined(every), self._mesh)
