"""Secure aggregation at the lead: sums and nothing else. The protocol is `fedhealth.secagg`; this drives it.

See docs/secure-aggregation.md. The lead never holds one site's update, counts or metrics in the clear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedhealth.consortium.identity import load_roster
from fedhealth.errors import FederationError, FedhealthError, SecureAggregationError
from fedhealth.models.modality_keys import SHARED, tower_of
from fedhealth.protocol.array_codec import arrays_in, unpack
from fedhealth.protocol.messages import SEALED, SECAGG, SIGN, UNMASK, digest_of, task_digest, words_in
from fedhealth.secagg.protocol.layout import Entry, Layout, model_segment, statistics_segment
from fedhealth.secagg.protocol.messages import Announcement
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.secagg.protocol.threshold import Policy
from fedhealth.secagg.server.server_protocol import Consortium, Plan
from fedhealth.secagg.server.session import ServerSession
from fedhealth.secagg.server.unmasking import Opened
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Ask, AttemptFailedError, Round
from strategies.aggregation.checks import STATISTICS_BOUND

STATISTICS_SEGMENT = "statistics"
_TRIES = 3  # of a question about the masks


class SecureSum:
    """Secure aggregation of updates (weighted mean by tower) and statistics (exact sums).

    Args:
        bits: on the wire for each value of the model, 16 to 32.
        bound: largest change of one value that a site may send in a round.
        clamp_share: share of a layer's values that may lie beyond it and are clamped; 0 refuses instead.
        colluders: sites assumed to collude with the lead; null takes (n - 1) // 3.
        min_honest: honest contributions that must hide each other; null takes 3 (2 up to five sites).
        min_sites: smallest sum ever opened.

    """

    def __init__(
        self,
        bits: int = 32,
        bound: float = 8.0,
        clamp_share: float = 0.0,
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
    ) -> None:
        self.bits, self.bound, self.clamp_share = bits, bound, clamp_share
        self.policy = Policy(colluders, min_honest, min_sites)

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin or continue a run."""
        lead = Consortium(run, load_roster(folder), bytes.fromhex(digest), self.policy)
        self._session = ServerSession(lead, FileStore(folder / "secagg"))

    def admit(self, site: str, content: RecordDict) -> None:
        """Register a site's announcement, which must be signed by the identity of that name."""
        found = self._session.register(_bytes(content, "announcement", site), site)
        if found.site != site:
            raise SecureAggregationError(f"{site} announced itself as {found.site}.", "Check the site's identity.")

    @property
    def last_exchange(self) -> int:
        """The latest exchange this lead opened, also before a restart."""
        return self._session.last[0]

    def resume(self, attempt: Round, settled: int) -> int | None:
        """Take up an interrupted unmasking of the same question: the same survivors, the same answers."""
        if not self._session.asked or self._session.context.directive.exchange <= settled:
            return None
        context = self._session.context
        same = _names(context.layout) == _names(self._layout(attempt))
        if not same or context.directive.model_digest != digest_of(attempt.incoming):
            return None
        self._begin(attempt, resumed=True)
        return context.directive.exchange

    def open(self, attempt: Round) -> ConfigRecord:
        """Write the attempt's TRAIN: who, what layout, under which context."""
        directive = attempt.directive
        self._begin(attempt, resumed=False)
        plan = Plan(
            exchange=directive.exchange,
            attempt=directive.attempt + 1,
            base=directive.cohort,
            cohort=directive.cohort,
            layout=self._layout(attempt),
            model_digest=digest_of(attempt.incoming),
            training_digest=task_digest(attempt.kind, directive),
        )
        return ConfigRecord({"train": self._session.open(plan)})

    def _begin(self, attempt: Round, resumed: bool) -> None:
        self._round, self._resumed = attempt, resumed
        self._faults: list[str] = []

    def add(self, site: str, content: RecordDict) -> None:
        """Fold a masked upload."""
        head = _bytes(content, "head", site)
        self._session.fold(head, unpack(arrays_in(content, SEALED)), site)

    def close(self, ask: Ask) -> Aggregate:
        """Fix the survivors, have the sum of their masks opened, and read the sum."""
        try:
            survivors = self._session.survivors if self._resumed else self._session.close()
        except SecureAggregationError as fault:
            raise AttemptFailedError(fault.problem, fault.advice) from fault
        self._sign(ask)
        self._unmask(ask)
        opened = self._session.finish()
        update: State = {}
        for segment, arrays in opened.vectors.items():
            if segment != STATISTICS_SEGMENT:
                update |= {n: a.reshape(self._round.expected[n].shape).astype(np.float32) for n, a in arrays.items()}
        return Aggregate(update, self._statistics(opened), survivors)

    def _sign(self, ask: Ask) -> None:
        """Have the survivors sign their list; one that was taken up from the disk is signed already.

        Raises:
            AttemptFailedError: too few signed; nobody was asked to open anything.

        """
        request = self._session.sign_request()
        if request is None or self._resumed:
            return
        unheard = self._asked(ask, SIGN, dict.fromkeys(self._session.survivors, _record(request)))
        if unheard is not None:
            raise AttemptFailedError(f"Too few sites signed the list of survivors{unheard}", "See their own logs.")

    def _unmask(self, ask: Ask) -> None:
        """Have the survivors open the sum of their masks: the same list every time."""
        requests = {site: _record(request) for site, request in self._session.unmask_requests().items()}
        unheard = self._asked(ask, UNMASK, requests)
        if unheard is not None:
            raise SecureAggregationError(
                f"Too few sites opened their shares{unheard}", "See their own logs; nothing of this round was opened."
            )

    def _asked(self, ask: Ask, kind: str, questions: Mapping[str, RecordDict]) -> str | None:
        """Ask until enough have answered, again where an answer was false or did not come; None, or who is missing."""
        step = {SIGN: self._session.endorse, UNMASK: self._session.answer}[kind]
        waiting = dict(questions)
        for _ in range(_TRIES):
            for site, content in ask(kind, dict(waiting)):
                heard = self._heard(step, site, content)
                if heard:  # enough: slow ones are not waited for
                    return None
                if heard is not None:
                    del waiting[site]
        faults = "".join(f"\n  {fault}" for fault in self._faults)
        return f"; without answer: {', '.join(sorted(waiting)) or 'none'}.{faults}"

    def _heard(self, step: Callable[[bytes, str], bool], site: str, content: RecordDict) -> bool | None:
        """Take one answer, tell whether they are enough now.

        None for a false one, which is remembered with its sender and does not spoil the others.
        """
        try:
            return step(_bytes(content, "answer", site), site)
        except FedhealthError as fault:
            self._faults.append(f"{site}: {fault.problem}")
            return None

    def _layout(self, attempt: Round) -> Layout:
        """Return a segment for each tower of the update and one for the statistics."""
        sites = len(self._session.members)
        towers = sorted({tower_of(name) for name in attempt.expected})
        segments = [
            model_segment(
                tower,
                tower,
                {name: array.size for name, array in sorted(attempt.expected.items()) if tower_of(name) == tower},
                bound=self.bound,
                bits=self.bits,
                sites=sites,
                normaliser=max(1, _announced(self._session.members, tower)),
                clamp_share=self.clamp_share,
            )
            for tower in towers
        ]
        lengths = {name: int(np.prod(shape)) for name, shape in sorted(attempt.statistics.items())}
        entries = tuple(Entry(name, length, STATISTICS_BOUND, 1.0) for name, length in lengths.items())
        return (*segments, statistics_segment(STATISTICS_SEGMENT, SHARED, entries, sites=sites))

    def _statistics(self, opened: Opened) -> dict[str, np.ndarray]:
        sums = opened.vectors.get(STATISTICS_SEGMENT, {})
        return {name: np.asarray(sums[name], np.int64).reshape(self._round.statistics[name]) for name in sums}


def _names(layout: Layout) -> list[tuple[str, list[str]]]:
    return [(segment.name, [entry.name for entry in segment.entries]) for segment in layout]


def _announced(members: Mapping[str, Announcement], tower: str) -> int:
    return sum(weight for member in members.values() for name, weight in member.towers if name == tower)


def _record(message: bytes) -> RecordDict:
    return RecordDict({SECAGG: ConfigRecord({"message": message})})


def _bytes(content: RecordDict, key: str, site: str) -> bytes:
    value = words_in(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise FederationError(f"Site {site!r} sent no {key} for secure aggregation.", "Use secagg=on at every site.")
    return value
