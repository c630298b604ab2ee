"""The lock of a ledger: one process at a time may write it. The lock ends with the process that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.utils.file_lock import lock_file


@contextmanager
def hold_lock(ledger: Path, wait: float) -> Iterator[None]:
    """Hold a ledger's lock; wait for it at most `wait` seconds.

    Raises:
        PrivacyError: another process holds the lock.

    """
    busy = PrivacyError(f"another run is using the data set of {ledger.name}", "Wait for it to end; nothing was spent.")
    with lock_file(ledger.with_suffix(".lock"), wait, busy):
        yield
