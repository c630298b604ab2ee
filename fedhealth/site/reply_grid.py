"""The public time grid on which the replies of a private run leave a hospital.

A reply's duration is an un-noised function of the data. Each reply to a request that touches data, also an error reply,
therefore waits for the next slot after the receipt of the request. The slots are the same for all runs and sites, and
each is a quarter later than the one before: a reply waits for at most a quarter of its duration.
"""

from __future__ import annotations

import threading
import time

FIRST_SLOT_SECONDS = 0.25
SLOT_RATIO = 1.25


def compute_reply_slot(elapsed: float) -> float:
    """Return the first slot that is not before `elapsed`; both in seconds since the receipt of the request."""
    slot = FIRST_SLOT_SECONDS
    while slot < elapsed:
        slot *= SLOT_RATIO
    return slot


def wait_for_reply_slot(received: float, stopping: threading.Event) -> float | None:
    """Wait until the next slot and return it; None if `stopping` was set first, so that the reply may not leave.

    Args:
        received: when the request arrived, by `time.monotonic`.
        stopping: ends the wait.

    """
    slot = compute_reply_slot(time.monotonic() - received)
    return None if stopping.wait(max(0.0, received + slot - time.monotonic())) else slot
