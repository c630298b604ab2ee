"""Import what a process uses all its life without searching it for garbage, time and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collection() -> Iterator[None]:
    """Collect no garbage inside, and leave what was made inside out of later collections: for imports alone.

    Modules are never garbage, and torch alone makes three hundred thousand objects: each full collection, of which a
    short run has some ten, takes a tenth of a second for them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
