"""Import what a process uses all its life without searching it for garbage, time and again."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def pause_collection() -> Iterator[None]:
    """Collect no garbage inside, and leave what was made inside out of later collections: for imports alone.

    Modules are never garbage, and torch alone makes three hundred thousand objects: each full collection, of which a
    short run has half a dozen, takes a tenth of a second for them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries complain at the end about what was never collected
        if was_enabled:
            gc.enable()


def import_modules(names: Sequence[str]) -> None:
    """Import modules in this way, unless they were imported before: then nothing changes for later collections."""
    if all(name in sys.modules for name in names):
        return
    with pause_collection():
        for name in names:
            import_module(name)
