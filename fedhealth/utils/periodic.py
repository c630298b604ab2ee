"""Call a function periodically in a background thread while a `with` block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def run_periodically(seconds: float, work: Callable[[], None], name: str) -> Iterator[None]:
    """Call `work` at an interval, first after one interval; an exception in it ends the thread.

    Args:
        seconds: the interval.
        work: a short function; the end of the block waits until it has returned.
        name: of the thread.

    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
