"""Checkpoints of the whole state through Orbax: atomic, loaded without pickle, and with a digest.

With each checkpoint lie the config of its run, the steps so far and the SHA-256 of both, of the
generation and of every array. A flipped bit, a lost file or a config that was edited is found when
it is read.
"""

import gc
import hashlib
import io
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from nesht_jax.run import processes
from nesht_jax.run.agent import RunState
from nesht_jax.run.config import CHANGEABLE, Config
from nesht_jax.run.fields import differences
from nesht_jax.run.yaml import config_of, dump, parse

T = TypeVar("T")


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: whole state after some generation.
        steps: useful environment steps until then.
    """

    state: RunState
    steps: int


class Checkpoints:
    """The checkpoints of one run, by generation; the newest two are kept.

    Args:
        folder: folder of checkpoints.
        config: config of the run.
        create: whether the folder is made, if there is none.

    Of several processes the writer alone has any.
    """

    def __init__(self, folder: Path, config: Config, *, create: bool) -> None:
        self._config, self._text = config, dump(replace(config, out=None))
        alone: dict[str, Any] = {}
        if processes.number() > 1:  # or Orbax would wait for the others, and make no folder
            if create:
                folder.mkdir(exist_ok=True)
            create = False
            alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="writer"
            )
        with _silent():
            self._manager = ocp.CheckpointManager(
                folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=2, create=create, enable_async_checkpointing=False, **alone
                ),
                item_handlers=ocp.StandardCheckpointHandler(),
            )

    def latest(self) -> int | None:
        """Generation of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: RunState, *, steps: int) -> None:
        """Writes the state; a kill in the middle leaves the older checkpoint whole.

        Args:
            state: state after some generation; if there is a checkpoint of it, it stays.
            steps: useful environment steps until then.

        Raises:
            OSError: if it cannot be written, as on a full disk.
        """
        generation = int(state.generation)
        if generation == self._manager.latest_step():
            return
        bits, told = _bits(state), {"config": self._text, "steps": str(steps)}
        told["digest"] = digest(bits, generation, *told.values())
        with _silent():
            try:
                wanted = ocp.args.StandardSave(bits)
                self._manager.save(generation, args=wanted, custom_metadata=told)
                return
            except Exception as error:  # Orbax and TensorStore raise many kinds for a full disk
                reason = _first_line(error)
            gc.collect()
        raise OSError(f"{self._named(generation)} cannot be written: {reason}")

    def restore(self, like: RunState) -> Saved:
        """Reads the newest sound checkpoint, with the structure, shapes and dtypes of ``like``.

        Warns of newer checkpoints that are damaged; they stay where they are.

        Raises:
            ValueError: if there is none, or each is damaged, or of another structure or config.
        """
        reasons: list[str] = []
        for generation in sorted(self._manager.all_steps(), reverse=True):
            try:
                saved = self._read(generation, like)
            except ValueError as error:
                reasons.append(str(error))
                continue
            if reasons:
                warnings.warn(
                    f"{reasons[0]}; that of generation {generation} is used", stacklevel=2
                )
            return saved
        raise ValueError(reasons[0] if reasons else f"no checkpoint in {self._manager.directory}")

    def set_aside(self, *, after: int) -> None:
        """Renames checkpoints of later generations, which are damaged, so that those can be made
        again."""
        for generation in self._manager.all_steps():
            if generation > after:
                place = self._manager.directory / str(generation)
                names = (f"{place}.damaged{n or ''}" for n in itertools.count())
                os.rename(place, next(name for name in names if not os.path.exists(name)))
        self._manager.reload()

    def check(self, state: RunState) -> None:
        """Reads back what was saved of a state.

        Raises:
            OSError: if it is not there, or not that state.
        """
        generation = int(state.generation)
        try:
            saved = self._read(generation, state).state
        except ValueError as error:
            raise OSError(f"what was saved does not read back: {error}") from error
        if digest(_bits(saved)) != digest(_bits(state)):
            raise OSError(f"what was saved does not read back as it was: {self._named(generation)}")

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()

    def _named(self, generation: int) -> str:
        return f"checkpoint {generation} in {self._manager.directory}"

    def _read(self, generation: int, like: RunState) -> Saved:
        def read() -> tuple[Any, dict[str, str]]:
            told = self._manager.metadata(generation).custom_metadata or {}
            if not {"config", "steps", "digest"} <= told.keys():
                raise ValueError("it has no digest")
            told = {name: str(value) for name, value in told.items()}
            self._check_config(generation, told["config"])
            wanted = ocp.args.StandardRestore(_bits(like))
            return self._manager.restore(generation, args=wanted), told

        bits, told = self._attempt(generation, read)
        if digest(bits, generation, told["config"], told["steps"]) != told["digest"]:
            raise ValueError(f"{self._named(generation)} is damaged: its digest is another")
        return Saved(jax.tree.map(_as_key, like, bits), int(told["steps"]))

    def _attempt(self, generation: int, read: Callable[[], T]) -> T:
        """Reads; whatever that raises becomes one sentence."""
        with _silent():
            try:
                return read()
            except _OtherConfigError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
                reason = _first_line(error)
            gc.collect()  # coroutines that Orbax has left in the air, and that complain as they go
        raise ValueError(f"{self._named(generation)} cannot be read: {reason}")

    def _check_config(self, generation: int, text: str) -> None:
        named = self._named(generation)
        made_by = config_of(parse(text, "its config"))
        # one share need not be written
        one, other = (replace(c, shares=c.shares or 1) for c in (made_by, self._config))
        unlike = [n for n in differences(one, other) if n not in ("out", *CHANGEABLE)]
        if unlike:
            raise _OtherConfigError(
                f"{named} is of another config than config.yaml of its run: they differ in "
                f"{', '.join(unlike)}"
            )


class _OtherConfigError(ValueError):
    """A checkpoint is of another config than the run."""


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing of what Orbax and asyncio say of damaged files is printed: we say it."""
    logs = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before, hook = [log.disabled for log in logs], sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


def packed(saved: Saved) -> bytes:
    """Writes what a checkpoint holds as bytes, to be sent to other processes."""
    file, leaves = io.BytesIO(), jax.tree.leaves(_bits(saved.state))
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(file, steps=np.int64(saved.steps), **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def unpacked(data: bytes, like: RunState) -> Saved:
    """Reads what ``packed`` has written, with the structure of ``like``."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        bits, structure = jax.tree.flatten(_bits(like))
        leaves = [jnp.asarray(arrays[str(i)]) for i in range(len(bits))]
        state = jax.tree.map(_as_key, like, jax.tree.unflatten(structure, leaves))
        return Saved(state, int(arrays["steps"]))


def digest(bits: Any, *others: object) -> str:
    """SHA-256 of a state, with key data in the place of keys, and of other values as texts."""
    made = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(bits)[0]:
        array = np.asarray(leaf)
        made.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    for other in others:
        made.update(f"{other}\n".encode())
    return made.hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0][:200]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(state: Any) -> Any:
    """The state with the data of keys in their places: Orbax takes no keys."""
    bits = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)
    return bits if processes.number() == 1 else jax.tree.map(np.asarray, bits)


def _as_key(like: Any, saved: Any) -> Any:
    if not _is_key(like):
        return saved
    return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(like))
