"""Several calls of Flower's state as one step, which happens as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def transaction(state: Any) -> Iterator[None]:
    """Commit what Flower's state is told meanwhile at the end; undo it after a fault, or if the process ends before.

    Flower's own session does not begin one for all it says: Python's driver takes `WITH ... UPDATE` for a question.
    """
    with state.session() as session:
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        yield
