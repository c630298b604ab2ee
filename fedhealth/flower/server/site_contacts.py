"""When each site last sent a request, and what it reported about its installation; for the lead's staff."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhealth.protocol.site_report import SiteReport
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.json_model import read_model
from fedhealth.utils.private_files import make_private_folder

log = logging.getLogger("fedhealth.lead")

_REWRITE_SECONDS = 20.0  # between two writes of an unchanged report
_CHANGE_SECONDS = 1.0  # between two writes of changing reports: no site can keep the lead's disk busy


@dataclass(frozen=True)
class Contact:
    """The last request of a site.

    Attributes:
        time: seconds since 1970.
        report: what the site reported; None if it reported nothing that this release reads.

    """

    time: float
    report: SiteReport | None


@dataclass(frozen=True)
class _LastRequest:
    """The content of a node's file: see `Contact`."""

    time: float
    report: str


class SiteContacts:
    """Records requests of authenticated nodes; several threads may use it.

    Args:
        folder: at the lead.
        clock: seconds since 1970.

    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = make_private_folder(folder), clock
        self._lock = threading.Lock()
        self._written: dict[int, tuple[float, str]] = {}

    def record(self, node_id: int, header: str) -> None:
        """Record a request; a disk that cannot be written is logged and stops nothing."""
        with self._lock:
            now, report = self._clock(), SiteReport.parse(header)
            text = report.dumps() if report else ""
            before, known = self._written.get(node_id, (0.0, ""))
            if 0 <= now - before < (_CHANGE_SECONDS if text != known else _REWRITE_SECONDS):
                return  # a clock that was set back must not hide a site until it has caught up
            self._written[node_id] = now, text
            content = encode_canonical(asdict(_LastRequest(round(now, 1), text)))
            try:
                write_atomic(self._folder / f"{node_id}.json", content, durable=False, single_writer=True)
            except OSError as fault:
                log.warning("the last contact of a site could not be written: %s", fault)


def load_contacts(folder: Path) -> dict[int, Contact]:
    """Return the last contact of each node, by node id."""
    found = {}
    for path in folder.glob("*.json"):
        if last := read_model(path, _LastRequest, "Remove it: the site's next request writes it again."):
            found[int(path.stem)] = Contact(last.time, SiteReport.parse(last.report))
    return found
