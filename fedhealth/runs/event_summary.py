"""What the events of a run say, added up as they come: who is where, what was done, what went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fedhealth.errors import KINDS

LATE, MISFIT = "late", "misfit"  # kinds of error that are no kind of fault at the site
_SITE_KINDS = {"InternalError", *(kind.__name__ for kind in KINDS)}


@dataclass
class SiteAccount:
    """What the events say of one site.

    Attributes:
        state: `awaited`, `ready`, `working`, `answered`, `left out` of the round, or `declined`.
        reason: why it was left out or declined.
        since: of the state, seconds since 1970.
        answered: when it answered last, likewise; 0 for never.
        seconds: that its last answer took.
        sent: bytes that went to it.
        received: bytes that came from it.
        errors: how often it failed, by kind; `late` for no answer in time, `misfit` for one that was not taken.

    """

    state: str = "awaited"
    reason: str = ""
    since: float = 0.0
    answered: float = 0.0
    seconds: float = 0.0
    sent: int = 0
    received: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass
class Account:
    """What a run's events say, taken one by one; events of kinds that are not known here change the time only.

    Attributes:
        phase: what is being done, in words.
        round: begun last.
        rounds: planned.
        completed: the last completed one.
        seconds: that it took.
        missing: hospitals that are waited for; empty when the run does not wait.
        trouble: the latest thing that went wrong, in words.
        at: of the latest event, seconds since 1970.
        sites: by name.

    """

    phase: str = "preparing"
    round: int = 0
    rounds: int = 0
    completed: int = 0
    seconds: float = 0.0
    missing: tuple[str, ...] = ()
    trouble: str = ""
    at: float = 0.0
    sites: dict[str, SiteAccount] = field(default_factory=dict)

    def take(self, events: Iterable[dict[str, Any]]) -> Account:
        """Read further events."""
        for event in events:
            self.at = float(event.get("time", self.at))
            if read := getattr(self, f"_on_{event['event']}", None):
                read(event)
        return self

    def _site(self, name: str, state: str, reason: str = "") -> SiteAccount:
        site = self.sites.setdefault(name, SiteAccount())
        site.state, site.reason, site.since = state, reason, self.at
        return site

    def _begun(self, phase: str) -> None:
        self.phase, self.missing = phase, ()

    def _on_resuming(self, event: dict[str, Any]) -> None:
        self._begun("starting again")
        for name in self.sites:
            self._site(name, "awaited")

    def _on_strategy(self, event: dict[str, Any]) -> None:
        self._begun("gathering the hospitals")
        for name in event["sites"]:
            self._site(name, "awaited")

    def _on_handshake(self, event: dict[str, Any]) -> None:
        reasons = "; ".join(event["reasons"])
        self._site(event["site"], "declined" if reasons else "ready", reasons)
        if reasons:
            self.trouble = f"{event['site']} declined: {reasons}"

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self.missing = tuple(event["missing"])

    def _on_started(self, event: dict[str, Any]) -> None:
        self._begun("training")
        self.rounds, self.completed = event["rounds"], event["completed"]

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self._begun("training")
        self.round = event["round"]
        self._asked(event["sites"])

    def _on_describing(self, event: dict[str, Any]) -> None:
        self._begun("describing")
        self._asked(event["sites"])

    def _on_evaluation_started(self, event: dict[str, Any]) -> None:
        self._begun("evaluating")
        self._asked([name for name, site in self.sites.items() if site.state in ("ready", "answered")])

    def _asked(self, names: Iterable[str]) -> None:
        for name in names:
            self._site(name, "working")

    def _on_attempt_failed(self, event: dict[str, Any]) -> None:
        self.trouble = f"round {event['round']} was tried again: {event['reason']}"
        self._asked([name for name, site in self.sites.items() if site.state in ("answered", "left out")])

    def _on_site_answered(self, event: dict[str, Any]) -> None:
        site = self._site(event["site"], "answered")
        site.answered, site.seconds = self.at, event["seconds"]
        site.sent, site.received = site.sent + event["sent"], site.received + event["received"]

    def _on_site_failed(self, event: dict[str, Any]) -> None:
        reason = str(event["reason"])
        site, kind = self._site(event["site"], "left out", reason), kind_of(reason)
        site.errors[kind] = site.errors.get(kind, 0) + 1
        self.trouble = f"{event['site']} was left out of round {event['round']}: {reason}"

    def _on_site_refused(self, event: dict[str, Any]) -> None:
        self.trouble = f"{event['site']} did not answer {event['question']}: {event['reason']}"

    def _on_checkpoint_failed(self, event: dict[str, Any]) -> None:
        self.trouble = f"round {event['round']} could not be kept on disk: {event['reason']}"

    def _on_round_completed(self, event: dict[str, Any]) -> None:
        self.completed, self.seconds = event["round"], event["seconds"]
        for name, site in self.sites.items():
            if site.state == "working":  # its answer was taken up from the disk
                self._site(name, "answered" if name in event["sites"] else "left out")

    def _on_evaluation_completed(self, event: dict[str, Any]) -> None:
        self._begun("reporting")

    def _on_comparing(self, event: dict[str, Any]) -> None:
        self._begun("comparing with alternatives")


def kind_of(reason: str) -> str:
    """Return the kind of a site's failure: its own word for it, `late`, or `misfit`."""
    word = reason.partition(" ")[0]
    if word in _SITE_KINDS:
        return word
    return LATE if "deadline" in reason else MISFIT
