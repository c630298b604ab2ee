"""The lead's talk with the sites of one run: who is there, what they are asked, what their answers sum up to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.array_codec import Packed, pack
from fedhealth.protocol.messages import DIRECTIVE, GLOBAL, SECAGG, Directive
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Aggregation, AttemptFailedError, Round, Shapes
from strategies.deadlines import Deadlines
from strategies.messaging import Event, Reply, exchange
from strategies.participants import LOOK_SECONDS, Cohort, Members, gather
from strategies.statistics import summary

_REJOIN_SECONDS = 60.0  # for a site that was here before to answer the handshake again
_ANSWER_SECONDS = 300.0  # for a question that takes no training: time for a site's machine to start again


@dataclass(frozen=True)
class Identity:
    """What every directive of a run repeats: our run id and the configuration's digest."""

    run: str
    digest: str


@dataclass(frozen=True)
class Question:
    """What all sites are asked in a round.

    Attributes:
        kind: the message type, such as `train.fit`.
        round: the training round.
        arrays: what they get.
        expected: arrays an update must have; empty when only statistics are wanted.
        statistics: shape of every vector of statistics they answer with.
        config: a record of the caller's own, or None.

    """

    kind: str
    round: int
    arrays: State
    expected: State
    statistics: Shapes
    config: ConfigRecord | None = None


class TooFewError(FederationError):
    """Fewer sites answered than are needed; nothing was opened."""


class Session:
    """One run's sites.

    Args:
        identity: of the run.
        cohort: who must take part.
        aggregation: how answers become one update.
        attempts: how often a round is tried when too few sites answer for a secure sum.
        deadlines: how long each site may take.
        event: called for everything worth showing.

    """

    def __init__(
        self,
        identity: Identity,
        cohort: Cohort,
        aggregation: Aggregation,
        attempts: int,
        deadlines: Deadlines,
        event: Event,
    ) -> None:
        self.identity, self.cohort, self.aggregation = identity, cohort, aggregation
        self.attempts, self.deadlines, self.event = attempts, deadlines, event
        self.members = Members()
        self.exchange = 0
        self.settled = 0  # the last exchange whose result is on the disk
        self.missed: tuple[str, ...] = ()

    def join(self, grid: Grid, timeout: float) -> None:
        """Gather the sites; the exchanges go on above what any of them has seen."""
        question = question_of(self.directive(0))
        self.members = gather(grid, self.cohort, self.aggregation, question, self.event, timeout)
        self.exchange = max(self.exchange, self.aggregation.last_exchange, self.members.last_exchange)
        self.missed = ()

    def rejoin(self, grid: Grid, timeout: float) -> None:
        """Gather the sites again where one failed, came or went since the last time."""
        if self.missed or set(grid.get_node_ids()) != self.members.seen:
            missed = self.missed
            self.join(grid, min(timeout, _REJOIN_SECONDS))
            self.missed = tuple(site for site in missed if site in self.members.nodes)

    def directive(self, number: int) -> Directive:
        """Return the directive of a new exchange."""
        self.exchange += 1
        cohort = tuple(sorted(self.members.nodes))
        return Directive(self.identity.run, self.identity.digest, number, self.exchange, 0, cohort, self.missed)

    def attempt(self, question: Question, directive: Directive) -> Round:
        """Return what the aggregation must know of an attempt."""
        statistics, weights = question.statistics, self.members.weights
        return Round(question.kind, directive, question.arrays, question.expected, statistics, weights)

    def ask(self, grid: Grid, question: Question, timeout: float) -> Aggregate:
        """Send the arrays to the cohort and fold the answers; try again while nothing was opened and tries are left.

        Where too few answer, it is asked again under a new exchange once the silent are back: who has answered keeps
        the answer and trains nothing twice. A sum whose opening was interrupted by the lead's end is opened instead.

        Raises:
            FederationError: too few answered, every time.

        """
        for number in range(self.attempts):
            try:
                return self._ask(grid, question, timeout)
            except TooFewError as fault:
                self.event("attempt_failed", round=question.round, attempt=number, reason=fault.problem)
                failed = fault
                if number + 1 < self.attempts:
                    self.rejoin(grid, timeout)
        raise failed

    def _ask(self, grid: Grid, question: Question, timeout: float) -> Aggregate:
        directive = self.directive(question.round)
        last = self.aggregation.resume(self.attempt(question, directive), self.settled)
        if last is not None:
            self.event("reopened", round=question.round, exchange=last)
            return self.aggregation.close(partial(self._ask_some, grid, replace(directive, exchange=last), timeout))
        packed = pack(question.arrays)
        for number in range(self.attempts):
            tried = replace(directive, attempt=number)
            secret = self.aggregation.open(self.attempt(question, tried))
            content = question_of(tried, packed, question.config, secret)
            self._collect(grid, question.kind, tried, content, timeout)
            self._require(directive)
            try:
                return self.aggregation.close(partial(self._ask_some, grid, directive, timeout))
            except AttemptFailedError as fault:
                self.event("attempt_failed", round=question.round, attempt=number, reason=fault.problem)
                failed = fault
        raise failed

    def fold(self, reply: Reply, number: int) -> bool:
        """Fold one answer; a site that failed or does not fit is left out of the round and named."""
        site = self.members.name_of(reply.node)
        if reply.message.has_error():
            reason = f"{reply.message.error.reason} (see the site's own log)"
            self.event("site_failed", round=number, site=site, reason=reason)
            return False
        try:
            own = self.aggregation.add(site, reply.message.content)
        except FedhealthError as fault:
            self.event("site_failed", round=number, site=site, reason=fault.problem)
            return False
        self.deadlines.note(site, reply.seconds)
        costs = {"seconds": round(reply.seconds, 3), "sent": reply.sent, "received": reply.received}
        self.event("site_answered", round=number, site=site, **costs, own=summary(own) if own else None)
        return True

    def _collect(self, grid: Grid, kind: str, directive: Directive, content: RecordDict, timeout: float) -> None:
        """Ask the whole cohort and fold the answers as they come; name the silent."""
        silent = {self.members.nodes[site]: site for site in directive.cohort}
        limits = {node: self.deadlines.of(site, timeout) for node, site in silent.items()}
        failed = []
        for reply in exchange(grid, kind, dict.fromkeys(silent, content), str(directive.round), limits):
            site = silent.pop(reply.node)
            if not self.fold(reply, directive.round):
                failed.append(site)
        for site in silent.values():
            self.event("site_failed", round=directive.round, site=site, reason="no answer before its deadline")
        self.missed = tuple(sorted([*failed, *silent.values()]))

    def _require(self, directive: Directive) -> None:
        """Refuse to open a sum of fewer answers than the quorum asks for.

        Raises:
            TooFewError: there are fewer.

        """
        asked, needed = len(directive.cohort), self.cohort.answers_needed(len(directive.cohort))
        if asked - len(self.missed) < needed:
            raise TooFewError(
                f"Round {directive.round}: {asked - len(self.missed)} of {asked} sites answered, {needed} are needed.",
                "See the sites' own logs; lower strategy.quorum to go on without them.",
            )

    def _ask_some(
        self, grid: Grid, directive: Directive, timeout: float, kind: str, questions: Mapping[str, RecordDict]
    ) -> Iterator[tuple[str, RecordDict]]:
        """Ask some sites one more thing within a round."""
        record = directive.record()
        asked = {
            self.members.nodes[site]: RecordDict({DIRECTIVE: record, **content})
            for site, content in questions.items()
            if site in self.members.nodes
        }
        self._wait_for_one(grid, asked)
        limits = dict.fromkeys(asked, min(timeout, _ANSWER_SECONDS))
        for reply in exchange(grid, kind, asked, str(directive.round), limits):
            site = self.members.name_of(reply.node)
            if reply.message.has_content():
                yield site, reply.message.content
            else:
                reason = reply.message.error.reason
                self.event("site_refused", round=directive.round, site=site, question=kind, reason=reason)

    def _wait_for_one(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Wait, visibly, until one of the sites at some nodes is connected; all of them may be starting again."""
        wanted, started = set(nodes), time.monotonic()
        while not wanted & set(grid.get_node_ids()) and time.monotonic() - started < self.cohort.wait:
            self.event("waiting", needed=1, missing=sorted(map(self.members.name_of, wanted)))
            time.sleep(LOOK_SECONDS)


def question_of(
    directive: Directive,
    arrays: Packed | None = None,
    config: ConfigRecord | None = None,
    secret: ConfigRecord | None = None,
) -> RecordDict:
    """Return the records of a question to a site."""
    records = {DIRECTIVE: directive.record(), GLOBAL: arrays, "config": config or None, SECAGG: secret}
    return RecordDict({name: record for name, record in records.items() if record is not None})


def messages_to(members: Members, question: RecordDict, kind: str, group: str) -> list[Message]:
    """Return one message for each member."""
    return [Message(question, node, kind, group_id=group) for node in members.nodes.values()]
