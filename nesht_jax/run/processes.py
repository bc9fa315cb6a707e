"""The processes of one run, on one machine or many, by JAX's own distributed runtime.

Every process runs the same command and does the same, each on its own devices. One of them, the
writer, keeps the run folder; what it reads there it sends to the others.
"""

import contextlib
import hashlib
import itertools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from nesht_jax.run.launcher import LOST, LostProcessError, Place

MEETINGS = "nesht/meetings/"
"""Where JAX's service keeps the last meeting that each process has come to."""

HEARTBEAT_SECONDS = 30
"""Time after which JAX takes a process that does not answer for dead."""

FAREWELL_SECONDS = 5.0
"""Time that a process which ends waits for others that end as well."""

FIRST_PATIENCE = 900.0
"""Seconds that a process waits for others that may still compile."""

LEAST_PATIENCE = 30.0
"""Seconds that it waits at least, however short the calls before were."""

# --------------------------------------------------------------------------- beginning and ending


def start(place: Place) -> None:
    """Joins the other processes of a run; before anything is computed.

    Raises:
        ValueError: if they are not found.
    """
    if jax.distributed.is_initialized():
        return
    # SIGINT and SIGTERM ask all processes to stop, by ``agree``
    jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {
        "local_device_ids": place.local_devices,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": HEARTBEAT_SECONDS,
    }
    if place.coordinator is None:
        options["cluster_detection_method"] = "slurm"
    else:
        options |= {
            "coordinator_address": place.coordinator,
            "num_processes": place.number,
            "process_id": place.process,
            # by default it listens on every interface
            "coordinator_bind_address": place.coordinator if place.process == 0 else None,
        }
    try:
        jax.distributed.initialize(**options)
    except RuntimeError as error:
        where = place.coordinator or "the first process"
        raise ValueError(f"{where} is not reached: {_first_line(error)}") from error


def leave(code: int) -> NoReturn:
    """Ends this process, which the others find out: its usual end would wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code != LOST:
        with contextlib.suppress(Exception):
            # those that leave too go together: JAX aborts one that outlives process 0
            client = multihost.get_jax_distributed_client()
            client.wait_at_barrier("nesht/leaving", int(1000 * FAREWELL_SECONDS))
            jax.distributed.shutdown()
    os._exit(code)


def number() -> int:
    """Counts the processes of the run."""
    return jax.process_count()


def is_writer() -> bool:
    """Whether this process keeps the run folder."""
    return jax.process_index() == 0


# ------------------------------------------------------------------------------ waiting, agreeing


def agree(calls: int, asked: int, *, longest: float | None) -> tuple[int, int]:
    """Gives the least of the calls, and the largest of the signals, that any process has named.

    Args:
        calls: generations that this process would do next.
        asked: number of the signal that asks this process to stop; 0: none.
        longest: seconds that the longest call so far has taken; None before the first.

    Raises:
        LostProcessError: if one does not come to ask.
    """
    if number() == 1:
        return calls, asked
    meet(longest)
    told = multihost_utils.process_allgather(np.array([calls, asked], np.int32))
    return int(told[:, 0].min()), int(told[:, 1].max())


@contextlib.contextmanager
def naming_the_lost() -> Iterator[None]:
    """Turns what JAX raises where another process is gone into a sentence that names it.

    Raises:
        LostProcessError: in place of JAX's own error.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if number() == 1 or (isinstance(error, ValueError) and "Gloo" not in str(error)):
            raise
        meet(0.0)  # as the connection is lost, the others do not come, and the barrier names them
        raise LostProcessError(_first_line(error)) from error


def patience(longest: float | None) -> float:
    """Gives the seconds to wait for another process, from those of the longest call so far."""
    return FIRST_PATIENCE if longest is None else max(LEAST_PATIENCE, 10 * longest)


_meetings = itertools.count()


def meet(longest: float | None) -> None:
    """Waits until every process has come here.

    Raises:
        LostProcessError: if one does not come in time, naming it.
    """
    if number() == 1:
        return
    seconds, meeting = patience(longest), next(_meetings)
    client = multihost.get_jax_distributed_client()
    client.key_value_set(f"{MEETINGS}{jax.process_index()}", str(meeting), allow_overwrite=True)
    begun = time.monotonic()
    try:
        # always of one name: the service keeps a record of every name, and there is no end of calls
        client.wait_at_barrier(MEETINGS, int(1000 * seconds))
    except Exception as error:  # JAX's own kind, of no public name
        waited = time.monotonic() - begun
        who = _named_in(str(error)) or _absent(client, meeting)
        raise LostProcessError(f"{who} has not answered for {waited:.0f} s") from error


def _absent(client: Any, meeting: int) -> str:
    """The processes that have not come to a meeting, in words."""
    try:
        told = client.key_value_dir_get(MEETINGS)
    except Exception:  # the service is gone, with the process that ran it
        return "process 0"
    came = {int(key.removeprefix(MEETINGS)) for key, at in told if int(at) >= meeting}
    absent = [str(i) for i in range(number()) if i not in came]
    return f"process {', '.join(absent)}" if absent else "another process"


def _named_in(words: str) -> str:
    """The process that JAX says has died, in words; nothing if it names none."""
    found = re.search(r"[Tt]ask:? (\d+) heartbeat timeout", words)
    return f"process {found[1]}" if found else ""


@contextlib.contextmanager
def watched(longest: float | None) -> Iterator[None]:
    """Ends the process if what is within it does not end in time: what waits for another device in
    a compiled program cannot be interrupted."""
    if number() == 1:
        yield
        return
    seconds = patience(longest)

    def abort() -> None:
        print(f"nesht: a generation has not ended in {seconds:.0f} s", file=sys.stderr)
        leave(LOST)

    timer = threading.Timer(seconds, abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_same(what: str, value: str) -> None:
    """Refuses processes that differ from the writer.

    Raises:
        ValueError: naming those of which the value is another.
    """
    own = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    meet(None)
    told = multihost_utils.process_allgather(own)
    named = multihost_utils.process_allgather(_padded(socket.gethostname()))
    if odd := np.flatnonzero((told != told[0]).any(1)).tolist():
        hosts = [bytes(name).decode().strip() for name in named]
        words = ", ".join(f"{i} on {hosts[i]}" for i in odd)
        raise ValueError(f"{what} of process {words} is another than that of process 0")


# ---------------------------------------------------------------------------------------- sending


def from_writer(make: Callable[[], bytes]) -> bytes:
    """Gives every process what the writer makes, or raises on every process what it raises.

    Raises:
        ValueError: if the writer raises one, or an OSError.
    """
    if number() == 1:
        return make()
    made, failure = b"", None
    if is_writer():
        try:
            made = make()
        except (ValueError, OSError) as error:
            made, failure = str(error).encode(), error
    meet(None)
    head = np.array([failure is not None, len(made) >> 20, len(made) % 2**20], np.int32)
    failed, mebibytes, rest = multihost_utils.broadcast_one_to_all(head).tolist()
    body = np.zeros((mebibytes << 20) + rest, np.uint8)
    if is_writer():
        body[:] = np.frombuffer(made, np.uint8)
    made = np.asarray(multihost_utils.broadcast_one_to_all(body)).astype(np.uint8).tobytes()
    if failure is not None:
        raise failure
    if failed:
        raise ValueError(made.decode())
    return made


def gathered(own: Any, *, longest: float | None) -> Any:
    """Joins the arrays of all processes along the leading axis, in the order of the processes.

    Raises:
        LostProcessError: if one does not come.
    """
    if number() == 1:
        return own
    meet(longest)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), own)


def own_shares(shares: int) -> range:
    """Gives the shares of a population that this process plays where devices do not."""
    size = shares // number()
    return range(size * jax.process_index(), size * (jax.process_index() + 1))


# ---------------------------------------------------------------------------------- global arrays


def replicated(tree: Any, mesh: Mesh) -> Any:
    """The arrays, which must be the same on every process, on all devices of a mesh."""
    whole = NamedSharding(mesh, PartitionSpec())

    def one(x: Any) -> jax.Array:
        if _is_key(x):
            data = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, whole, lambda at: np.asarray(value[at]))

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """Replicated arrays, on one device of this process alone."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
            return x
        if _is_key(x):
            data = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return x.addressable_data(0)

    return jax.tree.map(one, tree)


def devices_of_all() -> list[Any]:
    """Lists the devices, so that the first 2ᵃ of them are as many of each process as of any."""
    by_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    turns = itertools.zip_longest(*(by_process[i] for i in sorted(by_process)))
    return [device for turn in turns for device in turn if device is not None]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key)


def _padded(name: str) -> np.ndarray:
    return np.frombuffer(name.encode()[:64].ljust(64), np.uint8)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
