"""The signed jobs that a site has seen: each ends once, and is never resumed after its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fedhealth.consortium.signatures import canonical, parse_json
from fedhealth.consortium.signed_job import _ADVICE, Order
from fedhealth.errors import TrustError
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_folder


class Orders:
    """The orders that this site has seen, in a durable file: each one ends once, and for good."""

    def __init__(self, home: SiteHome, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home.state / "orders.json", clock

    def admit(self, order: Order, hours: float) -> None:
        """Take an order up, or go on with it.

        Args:
            order: verified.
            hours: for how long this site takes part in one run.

        Raises:
            TrustError: it ended here, its time is over, or its run id was used for another one.

        """
        known, digest = self._read(), order.identity
        new = order.run not in known
        seen = known.setdefault(order.run, {"digest": digest, "seen": self._clock(), "ended": None})
        if seen["digest"] != digest:
            raise TrustError(f"Run {order.run} was another job before.", _ADVICE)
        if seen["ended"] is not None:
            raise TrustError(f"Run {order.run} has ended; its job is not taken up again.", _ADVICE)
        if self._clock() > seen["seen"] + hours * 3600:
            raise TrustError(f"Run {order.run} has taken longer than this site allows.", "Raise hours in site.yaml.")
        if new:
            self._write(known)

    def end(self, run: str) -> None:
        """Remember that a run ended; unknown runs are ignored."""
        known = self._read()
        if run in known and known[run]["ended"] is None:
            known[run]["ended"] = self._clock()
            self._write(known)

    def lapsed(self, hours: float) -> list[str]:
        """Return the runs that have not ended and that this site takes no part in any more."""
        since = self._clock() - hours * 3600
        return [run for run, entry in self._read().items() if entry["ended"] is None and entry["seen"] < since]

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        return dict(parse_json(self._path.read_bytes(), str(self._path), 2**26))

    def _write(self, known: dict[str, Any]) -> None:
        make_folder(self._path.parent)
        write_atomic(self._path, canonical(known))
