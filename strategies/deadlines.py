"""Adaptive reply deadlines: a multiple of each site's own recent times, at most the round's timeout."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

_WINDOW = 5  # recent rounds
_MIN_SECONDS = 30.0  # so that a short network failure does not cost a contribution


@dataclass
class ReplyDeadlines:
    """Deadlines computed from each site's recent times.

    Attributes:
        deadline_factor: multiple of a site's slowest recent round; None uses the round's timeout.
        min_seconds: the shortest deadline.

    """

    deadline_factor: float | None = None
    min_seconds: float = _MIN_SECONDS
    _seconds: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_WINDOW)))

    def record_duration(self, site: str, seconds: float) -> None:
        """Record how long a site took."""
        self._seconds[site].append(seconds)

    def get_deadline(self, site: str, timeout: float) -> float:
        """Return the seconds that a site has in a round of at most `timeout` seconds."""
        recent = self._seconds.get(site)
        if self.deadline_factor is None or not recent:
            return timeout
        return min(timeout, max(self.min_seconds, self.deadline_factor * max(recent)))
