"""What this site reports to the lead's server about itself; written to the audit log before it leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhealth.errors import TrustError
from fedhealth.protocol.compatibility import compute_shared_digest, get_release
from fedhealth.protocol.site_report import NOT_CHECKED, SiteReport
from fedhealth.protocol.study_answer import ReportedAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.check.base import CheckResult, CheckStatus
from fedhealth.site.home import SiteHome
from fedhealth.site.install import load_installed_membership
from fedhealth.site.study_store import StudyStore
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.json_model import WholeNumber, read_model

_SEVERITY = list(CheckStatus)  # from PASS to FAIL


@dataclass(frozen=True)
class _LastCheck:
    """When the last check was, in seconds since 1970, and its worst result."""

    time: WholeNumber
    result: CheckStatus


class SiteReporter:
    """Builds the report; several threads may call it.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._lock = home, threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._text = ""

    def __call__(self) -> str:
        """Return the report as it is sent.

        Raises:
            TrustError: the kit or the audit log is damaged; then nothing may leave.

        """
        with self._lock:
            paths = self._home.membership, self._home.last_check, self._home.studies
            seen = tuple(map(_get_change_time, paths))
            if seen != self._seen:
                report = build_report(self._home)
                if report.dumps() != self._text:
                    AuditLog(self._home.audit).write("reported", **asdict(report))
                self._seen, self._text = seen, report.dumps()
            return self._text


def build_report(home: SiteHome) -> SiteReport:
    """Return the report of the site at `home`.

    Raises:
        TrustError: the kit is damaged.

    """
    signed = load_installed_membership(home)
    last = None
    with suppress(OSError, TrustError):  # written by another user, or damaged
        last = read_model(home.last_check, _LastCheck, "Run `fedhealth site check` again.")
    checked, result = (last.time, str(last.result)) if last else (0, NOT_CHECKED)
    serial = signed.membership.serial if signed else 0
    studies: tuple[ReportedAnswer, ...] = ()
    with suppress(TrustError):  # a damaged file of a study stops its runs, not the site
        studies = StudyStore(home).list_answers()
    return SiteReport(get_release(), compute_shared_digest(), serial, checked, result, studies)


def record_check(home: SiteHome, results: Iterable[CheckResult]) -> None:
    """Record time and worst result of a check; the caller leaves out every result that may depend on the data."""
    worst = max((each.status for each in results), key=_SEVERITY.index, default=CheckStatus.PASS)
    with suppress(OSError):  # a check by a user who may not write here is a check all the same
        write_json(home.last_check, asdict(_LastCheck(int(time.time()), worst)))


def _get_change_time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
