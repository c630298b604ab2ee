"""The hospital's record of every run: order, data, bookings, what left, who approved, the outcome.

It is put together from the audit log, the studies and the privacy ledgers, which are kept when a run's arrays are
deleted; there is no second book that could differ from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.errors import ConfigError
from fedhealth.privacy.accounting.spending import RunSpending, iter_run_spending
from fedhealth.protocol.messages import HANDSHAKE
from fedhealth.site.audit_log import verify_log
from fedhealth.site.home import SiteHome
from fedhealth.site.record_gaps import find_log_gap, list_record_gaps
from fedhealth.site.study_store import StudyStore

_LEADING_DIGITS = (5, 2, 1)
Entry = Mapping[str, Any]
"""One line of the audit log."""


@dataclass(frozen=True)
class UsedData:
    """Data that a run read.

    Attributes:
        dataset: the hospital's own name for them.
        digest: of their content.
        patients: at least so many: the count rounded down to 1, 2 or 5 times a power of ten.

    """

    dataset: str
    digest: str
    patients: int


@dataclass(frozen=True)
class SentReply:
    """One reply that left the hospital.

    Attributes:
        time: seconds since 1970.
        kind: type of the request.
        round: of the run.
        records: names of its parts.
        bytes: its size.
        sha256: its digest.
        release: digest under which the privacy ledger has it; empty for a reply without private content.

    """

    time: float
    kind: str
    round: int
    records: tuple[str, ...]
    bytes: int
    sha256: str
    release: str = ""


@dataclass(frozen=True)
class StudyDecisionEntry:
    """Who decided what on a study, and when (seconds since 1970)."""

    decision: str
    person: str
    time: float


@dataclass(frozen=True)
class SiteRunRecord:
    """One run at this hospital. Times are seconds since 1970.

    Attributes:
        run: its id.
        started: when its order was accepted, or first declined.
        last: its last entry in the log.
        outcome: `ended by` `lead`, `expiry` or `recovery`; `ended` if that is not recorded; `open` or `declined`.
        study: the study that it belongs to; None if it was answered without one.
        order: the lead's signed order; empty if no order was accepted.
        decisions: on the study, before and during the run.
        data: what it read.
        requests: how many, by kind.
        models: digests of the incoming models, in their order, without repetitions.
        sent: what left.
        refused: what the egress gate stopped, in its words.
        declined: reasons for which the run was declined.
        spending: what it booked, by data set.
        is_plaintext: whether the lead could read this hospital's own replies; None if that is not recorded.
        gaps: what this record cannot say.

    """

    run: str
    started: float
    last: float
    outcome: str
    study: ResearchStudy | None
    order: Mapping[str, Any]
    decisions: tuple[StudyDecisionEntry, ...]
    data: tuple[UsedData, ...]
    requests: Mapping[str, int]
    models: tuple[str, ...]
    sent: tuple[SentReply, ...]
    refused: tuple[str, ...]
    declined: tuple[str, ...]
    spending: tuple[RunSpending, ...] = ()
    is_plaintext: bool | None = None
    gaps: tuple[str, ...] = ()

    @property
    def bytes_sent(self) -> int:
        """Size of everything that left."""
        return sum(each.bytes for each in self.sent)


def round_count_down(count: int) -> int:
    """Return the largest 1, 2 or 5 times a power of ten that is not above `count`; 0 for 0."""
    power = 10 ** (len(str(count)) - 1)
    return next((digit * power for digit in _LEADING_DIGITS if digit * power <= count), 0)


def list_site_runs(home: SiteHome) -> list[SiteRunRecord]:
    """Return the record of every run that asked this hospital for anything, in the order of their beginnings.

    Raises:
        TrustError: the audit log or a study was edited, cut or damaged.
        PrivacyError: the same of a privacy ledger.

    """
    return read_run_history(home)[0]


def read_run_history(home: SiteHome) -> tuple[list[SiteRunRecord], list[str]]:
    """Return the records of all runs as `list_site_runs`, and what they cannot say.

    Raises:
        TrustError, PrivacyError: as `list_site_runs`.

    """
    entries = verify_log(home.audit)
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        if (run := str(entry.get("run", ""))) and entry["event"] != "recovered":  # nobody asked for anything
            by_run.setdefault(run, []).append(entry)
    by_run = {run: own for run, own in by_run.items() if any(entry["event"] != "ended" for entry in own)}
    spending = list(iter_run_spending(home.path))
    studies = StudyStore(home).load_studies()
    decisions = [entry for entry in entries if str(entry["event"]).startswith("study ")]
    gap = find_log_gap(home, entries)
    records = [
        replace(_build_record(run, own, studies, decisions, spending), gaps=(gap,) if gap else ())
        for run, own in by_run.items()
    ]
    return records, list(list_record_gaps(home, entries, by_run, (each.run for each in spending)))


def find_site_run(home: SiteHome, run: str) -> SiteRunRecord:
    """Return the record of the run whose id begins so.

    Raises:
        ConfigError: there is none, or more than one.
        TrustError, PrivacyError: as `list_site_runs`.

    """
    found = [each for each in list_site_runs(home) if each.run.startswith(run)] if run else []
    found = [each for each in found if each.run == run] or found  # an id may begin another one
    if len(found) != 1:
        known = "No run" if not found else f"More than one run ({len(found)})"
        raise ConfigError(
            f"{known} here begins with {run!r}.", "`fedhealth site runs list` shows all of them, and what is missing."
        )
    return found[0]


def _build_record(
    run: str,
    entries: Sequence[Entry],
    studies: Mapping[str, ResearchStudy],
    decisions: Iterable[Entry],
    spending: Iterable[RunSpending],
) -> SiteRunRecord:
    accepted, asked = _select(entries, "accepted"), _select(entries, "asked")
    order = accepted[-1]["order"] if accepted else {}
    study = studies.get(str(order.get("study", "")))
    reasons = (str(reason) for entry in _select(entries, "run declined") for reason in entry["reasons"])
    faults = (str(fault) for entry in _select(entries, "refused") for fault in entry["faults"])
    return SiteRunRecord(
        run=run,
        started=float(entries[0]["time"]),
        last=float(entries[-1]["time"]),
        outcome=_find_outcome(entries),
        study=study,
        order=order,
        decisions=_select_decisions(study, decisions, entries[-1]),
        data=_list_used_data(entries),
        requests=dict(Counter(str(entry["kind"]) for entry in asked)),
        models=tuple(dict.fromkeys(str(entry["model"]) for entry in asked if entry.get("model"))),
        sent=tuple(map(_parse_sent_reply, _select(entries, "left"))),
        refused=tuple(dict.fromkeys(faults)),
        declined=tuple(dict.fromkeys(reasons)),
        spending=tuple(each for each in spending if each.run == run),
        is_plaintext=accepted[-1].get("plaintext") if accepted else None,
    )


def _select(entries: Iterable[Entry], event: str) -> list[Entry]:
    return [entry for entry in entries if entry["event"] == event]


def _find_outcome(entries: Sequence[Entry]) -> str:
    if ended := _select(entries, "ended"):
        return f"ended by {ended[0]['by']}" if ended[0].get("by") else "ended"
    is_answered = bool(_select(entries, "data")) or any(
        entry["kind"] != HANDSHAKE for entry in _select(entries, "left")
    )
    return "declined" if _select(entries, "run declined") and not is_answered else "open"


def _select_decisions(
    study: ResearchStudy | None, entries: Iterable[Entry], last: Entry
) -> tuple[StudyDecisionEntry, ...]:
    """Return the decisions on a study up to the run's last entry, in the log's order: a clock may be set back."""
    if study is None:
        return ()
    own = (entry for entry in entries if entry.get("digest") == study.digest and "person" in entry)
    return tuple(
        StudyDecisionEntry(str(entry["event"]).removeprefix("study "), str(entry["person"]), float(entry["time"]))
        for entry in own
        if entry.get("number", 0) <= last.get("number", 0)
    )


def _list_used_data(entries: Iterable[Entry]) -> tuple[UsedData, ...]:
    found = (
        UsedData(str(entry["dataset"]), str(entry["digest"]), int(entry["subjects"]))
        for entry in _select(entries, "data")
    )
    return tuple(dict.fromkeys(found))


def _parse_sent_reply(entry: Entry) -> SentReply:
    return SentReply(
        time=float(entry["time"]),
        kind=str(entry["kind"]),
        round=int(entry["round"]),
        records=tuple(map(str, entry["records"])),
        bytes=int(entry["bytes"]),
        sha256=str(entry["sha256"]),
        release=str(entry.get("release", "")),
    )
