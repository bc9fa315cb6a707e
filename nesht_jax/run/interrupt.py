"""Leaving cleanly: SIGINT and SIGTERM ask a run to stop, and do not tear it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, Signals, signal
from typing import Any


class Stop:
    """The signal that asked to stop, once one has."""

    asked: Signals | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within it the first SIGINT or SIGTERM is noted; a second one does what it always did.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        stop.asked = Signals(number)
        signal(number, before[stop.asked])

    before = {number: signal(number, ask) for number in (SIGINT, SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal(number, handler)
