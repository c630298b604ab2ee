"""The lock of a ledger: one process at a time may write it. The lock ends with the process that holds it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fedhealth.errors import PrivacyError

_POLL = 0.05  # seconds


class LedgerInUseError(PrivacyError):
    """Another process holds the ledger's lock."""


@contextmanager
def hold_lock(ledger: Path, wait: float) -> Iterator[None]:
    """Hold a ledger's lock; wait for it at most `wait` seconds.

    Raises:
        LedgerInUseError: another process holds the lock.

    """
    with ledger.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + wait
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                raise LedgerInUseError(
                    f"another run is using the data set of {ledger.name}", "Wait for it to end; nothing was spent."
                )
            time.sleep(_POLL)
        yield


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
