"""What the records of a hospital cannot say: a log that was removed or begun again must not look like a clean one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import list_known_runs

_INSTALLED = "kit installed"  # the entry of every installation: a log of an installed site without it begins later


def find_log_gap(home: SiteHome, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Return that the audit log, or its beginning, is gone; None if it reaches back to the installation.

    Args:
        home: the hospital's folder.
        entries: of its verified audit log.

    """
    events = {str(entry["event"]) for entry in entries}
    if not entries and (home.membership.is_file() or _has_worked(home)):
        return f"the audit log {home.audit} is gone: nothing is known here of what this site did and sent"
    if entries and home.membership.is_file() and not events & {_INSTALLED, "recovered"}:
        return f"the audit log {home.audit} does not begin with this site's installation: what was before is gone"
    return None


def list_record_gaps(
    home: SiteHome, entries: Sequence[Mapping[str, Any]], known: Iterable[str], booked: Iterable[str]
) -> Iterator[str]:
    """Yield everything that the records of the runs cannot say.

    Args:
        home: the hospital's folder.
        entries: of its verified audit log.
        known: the runs of which there is a record.
        booked: the runs that the privacy ledgers name.

    """
    recorded, in_ledgers = set(known), dict.fromkeys(booked)
    if (gap := find_log_gap(home, entries)) is not None:
        yield gap
    for run in in_ledgers:
        if run not in recorded:
            yield f"run {run} has bookings in a privacy ledger, and no entry in this audit log"
    for run in sorted(list_known_runs(home.state) - recorded - set(in_ledgers)):
        yield f"run {run} was accepted here, and has no entry in this audit log"
    if recovered := [entry for entry in entries if entry["event"] == "recovered"]:
        day = datetime.fromtimestamp(float(recovered[-1]["time"]), UTC).date()
        yield f"this site was recovered on {day}: what it did after the copy was made is not in this log"


def _has_worked(home: SiteHome) -> bool:
    """Return whether this site has written its log before, accepted a run, booked privacy or received a study."""
    beside_log = home.audit.parent.glob("*")  # such as its lock
    left = (beside_log, find_ledgers(home.state), home.studies.glob("*.json"))
    return bool(list_known_runs(home.state)) or any(True for files in left for _ in files)
