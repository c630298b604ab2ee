"""Several calls of Flower's state in one database transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def immediate_transaction(state: Any) -> Iterator[None]:
    """Commit all changes of Flower's state at the end of the block; roll back after an error or a crash.

    Flower's own session does not begin a transaction for every statement: Python's SQLite driver treats
    `WITH ... UPDATE` as a query.
    """
    with state.session() as session:
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        yield
