"""Checkpoints of the whole state through Orbax: atomic, and loaded without pickle."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from nesht_jax.es.nes import State


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

    def save(self, state: State) -> None:
        """Writes the state; a kill in the middle leaves the older checkpoint whole."""
        generation = int(state.generation)
        if generation != self._manager.latest_step():
            bits = state._replace(key=jax.random.key_data(state.key))
            self._manager.save(generation, args=ocp.args.StandardSave(bits))

    def restore(self, like: State) -> State:
        """Reads the newest state, with the structure, shapes and dtypes of ``like``.

        Raises:
            ValueError: if there is none, or it is damaged, or of another structure.
        """
        folder, latest = self._manager.directory, self._manager.latest_step()
        if latest is None:
            raise ValueError(f"no checkpoint in {folder}")
        bits = like._replace(key=jax.random.key_data(like.key))
        saved: Any
        try:
            saved = self._manager.restore(latest, args=ocp.args.StandardRestore(bits))
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
            raise ValueError(f"checkpoint {latest} in {folder} cannot be read: {reason}") from error
        impl = jax.random.key_impl(like.key)
        return saved._replace(key=jax.random.wrap_key_data(saved.key, impl=impl))

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()
