"""How long a site may take: what it usually takes, with patience, and never more than the round's timeout."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

_REMEMBERED = 5  # rounds
_LEAST_SECONDS = 30.0  # a blip of the network is no reason to lose a contribution


@dataclass
class Deadlines:
    """Deadlines from each site's own past.

    Attributes:
        patience: how many times its slowest recent round a site may take; None waits for the round's timeout.
        least: no deadline is shorter, in seconds.

    """

    patience: float | None = None
    least: float = _LEAST_SECONDS
    _seconds: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_REMEMBERED)))

    def note(self, site: str, seconds: float) -> None:
        """Remember how long a site took."""
        self._seconds[site].append(seconds)

    def of(self, site: str, timeout: float) -> float:
        """Return the seconds a site has in a round of at most `timeout` seconds."""
        past = self._seconds.get(site)
        if self.patience is None or not past:
            return timeout
        return min(timeout, max(self.least, self.patience * max(past)))
