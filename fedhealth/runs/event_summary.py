"""Reduce a run's events to a summary: state per site, progress, traffic, last error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fedhealth.errors import ERROR_TYPES

LATE, MISFIT = "late", "misfit"  # missed deadline, invalid reply: failures that the site did not report itself
_SITE_KINDS = {"InternalError", *(kind.__name__ for kind in ERROR_TYPES)}


@dataclass
class SiteSummary:
    """State and totals of one site.

    Attributes:
        state: `awaited`, `ready`, `working`, `answered`, `left out` of the round, or `declined`.
        reason: why it was left out of the round or declined.
        fix: what to do about a decline.
        since: time of the last change of state, seconds since 1970.
        answered: time of its last reply, seconds since 1970; 0 for never.
        seconds: duration of its last reply.
        sent: bytes sent to it.
        received: bytes received from it.
        errors: number of failures by kind; `late` for a missed deadline, `misfit` for an invalid reply.

    """

    state: str = "awaited"
    reason: str = ""
    fix: str = ""
    since: float = 0.0
    answered: float = 0.0
    seconds: float = 0.0
    sent: int = 0
    received: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass
class EventSummary:
    """Summary of a run's events; an event of an unknown kind changes only the time.

    Attributes:
        phase: current phase, as text.
        round: the round that started last.
        rounds: number of planned rounds.
        completed: the last completed round.
        seconds: duration of that round.
        missing: hospitals that the run waits for; empty when it does not wait.
        trouble: the latest problem, as text; empty once a whole round was completed without any.
        at: time of the latest event, seconds since 1970.
        sites: summary per site, by name.

    """

    phase: str = "preparing"
    round: int = 0
    rounds: int = 0
    completed: int = 0
    seconds: float = 0.0
    missing: tuple[str, ...] = ()
    trouble: str = ""
    at: float = 0.0
    sites: dict[str, SiteSummary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._is_new_trouble = False  # since the last completed round

    def add_events(self, events: Iterable[dict[str, Any]]) -> EventSummary:
        """Add further events and return the summary itself.

        Raises:
            LookupError, TypeError, ValueError: an event is damaged.

        """
        for event in events:
            self.at = float(event.get("time", self.at))
            if handler := getattr(self, f"_on_{event['event']}", None):
                handler(event)
        return self

    def _set_state(self, name: str, state: str, reason: str = "") -> SiteSummary:
        site = self.sites.setdefault(name, SiteSummary())
        site.state, site.reason, site.fix, site.since = state, reason, "", self.at
        return site

    def _report_trouble(self, text: str) -> None:
        self.trouble, self._is_new_trouble = text, True

    def _start_phase(self, phase: str) -> None:
        self.phase, self.missing = phase, ()

    def _on_resuming(self, event: dict[str, Any]) -> None:
        self._start_phase("resuming")
        for name in self.sites:
            self._set_state(name, "awaited")

    def _on_strategy(self, event: dict[str, Any]) -> None:
        self._start_phase("waiting for the hospitals")
        for name in _list_names(event["sites"]):
            self._set_state(name, "awaited")

    def _on_handshake(self, event: dict[str, Any]) -> None:
        reasons = "; ".join(map(str, event.get("reasons", ())))
        site = self._set_state(str(event["site"]), "declined" if reasons else "ready", reasons)
        if reasons:
            site.fix = str(event.get("fix", ""))
            self._report_trouble(f"{event['site']} declined: {reasons}")

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self.missing = _list_names(event["missing"])

    def _on_started(self, event: dict[str, Any]) -> None:
        self._start_phase("training")
        self.rounds, self.completed = int(event["rounds"]), int(event["completed"])

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self._start_phase("training")
        self.round = int(event["round"])
        self._mark_working(_list_names(event["sites"]))

    def _on_describing(self, event: dict[str, Any]) -> None:
        self._start_phase("describing")
        self._mark_working(_list_names(event["sites"]))

    def _on_evaluation_started(self, event: dict[str, Any]) -> None:
        self._start_phase("evaluating")
        self._mark_working([name for name, site in self.sites.items() if site.state in ("ready", "answered")])

    def _mark_working(self, names: Iterable[str]) -> None:
        for name in names:
            self._set_state(name, "working")

    def _on_attempt_failed(self, event: dict[str, Any]) -> None:
        self._report_trouble(f"round {event['round']} was retried: {event['reason']}")
        self._mark_working([name for name, site in self.sites.items() if site.state in ("answered", "left out")])

    def _on_site_answered(self, event: dict[str, Any]) -> None:
        site = self._set_state(str(event["site"]), "answered")
        site.answered, site.seconds = self.at, float(event["seconds"])
        site.sent, site.received = site.sent + int(event["sent"]), site.received + int(event["received"])

    def _on_site_failed(self, event: dict[str, Any]) -> None:
        reason = str(event["reason"])
        site, kind = self._set_state(str(event["site"]), "left out", reason), classify_failure(reason)
        site.errors[kind] = site.errors.get(kind, 0) + 1
        self._report_trouble(f"{event['site']} was left out of round {event['round']}: {reason}")

    def _on_site_refused(self, event: dict[str, Any]) -> None:
        self._report_trouble(f"{event['site']} did not answer {event['question']}: {event['reason']}")

    def _on_checkpoint_failed(self, event: dict[str, Any]) -> None:
        self._report_trouble(f"round {event['round']} could not be saved to disk: {event['reason']}")

    def _on_round_completed(self, event: dict[str, Any]) -> None:
        self.completed, self.seconds = int(event["round"]), float(event["seconds"])
        self.trouble, self._is_new_trouble = self.trouble if self._is_new_trouble else "", False
        for name, site in self.sites.items():
            if site.state == "working":  # its reply was restored from the checkpoint
                self._set_state(name, "answered" if name in event["sites"] else "left out")

    def _on_evaluation_completed(self, event: dict[str, Any]) -> None:
        self._start_phase("reporting")

    def _on_comparing(self, event: dict[str, Any]) -> None:
        self._start_phase("training baselines")


def _list_names(names: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, names))


def classify_failure(reason: str) -> str:
    """Return the kind of a site's failure: the error type that it reported, `late`, or `misfit`."""
    kind = reason.partition(" ")[0]
    if kind in _SITE_KINDS:
        return kind
    return LATE if "deadline" in reason else MISFIT
