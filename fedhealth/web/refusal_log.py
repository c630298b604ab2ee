"""What the page refused, and that somebody signed in: fixed words, so that no request writes its own into the log."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from fedhealth.errors import TrustError

log = logging.getLogger("fedhealth.web")
_MOST_ENTRIES, _WINDOW_SECONDS = 60, 3600.0  # a flood of requests must not fill the log


class PageRefusal(StrEnum):
    """Why the page refused a request."""

    host = "another host name"
    method = "another method"
    path = "an unusual path"
    query = "a query"
    headers = "unusual headers"
    origin = "sent by another page"
    kind = "another kind of content"
    length = "no length"
    size = "too large"
    slow = "too slow"
    token = "a wrong sign-in token"  # noqa: S105 - a reason, no token
    session = "not signed in"
    role = "a role that only reads"
    form = "a form that was not shown, or was used before"
    passphrase = "a wrong passphrase"  # noqa: S105 - a reason, no passphrase
    field = "unusual text in a field"
    unknown = "a page that does not exist"


class EventLog(Protocol):
    """A log that nobody can edit unseen."""

    def write(self, event: str, **fields: object) -> None:
        """Append an entry.

        Raises:
            TrustError: the log is damaged.

        """


class RefusalLog:
    """Write refusals to a log; of a flood of one reason only the first ones and their number.

    Args:
        events: the log.
        clock: seconds, never going back.

    """

    def __init__(self, events: EventLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._events, self._clock, self._lock = events, clock, threading.Lock()
        self._began, self._entries, self._left_out = clock(), Counter[PageRefusal](), Counter[PageRefusal]()

    def write_refusal(self, reason: PageRefusal) -> None:
        """Write one refusal."""
        with self._lock:
            now = self._clock()
            if now - self._began > _WINDOW_SECONDS:
                self._began, self._entries = now, Counter()
            if self._entries[reason] >= _MOST_ENTRIES:
                self._left_out[reason] += 1
                return
            self._entries[reason] += 1
            left_out = self._left_out.pop(reason, 0)
            more = {"not_logged_before": left_out} if left_out else {}
        self._write("page refused", reason=str(reason), **more)

    def write_sign_in(self, role: str) -> None:
        """Write that somebody signed in with a right token."""
        self._write("page signed in", role=role)

    def _write(self, event: str, **fields: object) -> None:
        try:
            self._events.write(event, **fields)
        except TrustError:  # a damaged log stops the site's replies; the page is there to show it
            log.exception("%s %s: the log cannot record it", event, fields)
