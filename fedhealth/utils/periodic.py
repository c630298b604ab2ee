"""Something that is done again and again in the background, as long as a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def regularly(seconds: float, work: Callable[[], None], name: str) -> Iterator[None]:
    """Do the work every some seconds, not at the beginning and not at the end; what it raises ends it.

    Args:
        seconds: between two times.
        work: short; the end of the block waits for it.
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
