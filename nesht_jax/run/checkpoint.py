"""Checkpoints of the whole state through Orbax: atomic, and loaded without pickle."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from nesht_jax.run.agent import RunState


class Checkpoints:
    """The checkpoints of one run, by generation; the newest two are kept."""

    def __init__(self, folder: Path, *, create: bool) -> None:
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, create=create, enable_async_checkpointing=False
            ),
        )

    def latest(self) -> int | None:
        """Generation of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: RunState) -> None:
        """Writes the state; a kill in the middle leaves the older checkpoint whole."""
        generation = int(state.generation)
        if generation != self._manager.latest_step():
            self._manager.save(generation, args=ocp.args.StandardSave(_bits(state)))

    def restore(self, like: RunState) -> RunState:
        """Reads the newest state, with the structure, shapes and dtypes of ``like``.

        Raises:
            ValueError: if there is none, or it is damaged, or of another structure.
        """
        folder, latest = self._manager.directory, self._manager.latest_step()
        if latest is None:
            raise ValueError(f"no checkpoint in {folder}")
        saved: Any
        try:
            saved = self._manager.restore(latest, args=ocp.args.StandardRestore(_bits(like)))
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
            raise ValueError(f"checkpoint {latest} in {folder} cannot be read: {reason}") from error
        return jax.tree.map(_as_key, like, saved)

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(state: Any) -> Any:
    """The state with the data of keys in their places: Orbax takes no keys."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _as_key(like: Any, saved: Any) -> Any:
    if not _is_key(like):
        return saved
    return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(like))
