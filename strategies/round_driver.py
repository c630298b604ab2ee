"""Drive one run's exchanges with the sites: gather members, send requests, aggregate the replies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.array_codec import Packed, pack_arrays
from fedhealth.protocol.messages import DIRECTIVE, GLOBAL, SECAGG, Directive
from fedhealth.protocol.refusals import describe_error
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Aggregation, AttemptFailedError, RoundAttempt, Shapes
from strategies.deadlines import ReplyDeadlines
from strategies.messaging import EventCallback, Reply, exchange_messages
from strategies.participants import NODE_POLL_SECONDS, Members, Participation, gather_members
from strategies.statistics import summarize_statistics

_REJOIN_SECONDS = 60.0  # for a site that has already joined to answer the handshake again
_FOLLOW_UP_SECONDS = 300.0  # for a request without training: enough for a site's machine to restart


@dataclass(frozen=True)
class RunIdentity:
    """The fields that every directive of a run contains: our run id and the configuration's digest."""

    run: str
    digest: str


@dataclass(frozen=True)
class RoundRequest:
    """The request that all sites get in a round.

    Attributes:
        kind: the message type, such as `train.fit`.
        round: the training round.
        arrays: sent to the sites.
        expected: arrays that an update must have; empty if only statistics are requested.
        statistics: shape of every vector of statistics in a reply.
        config: an additional record, or None.

    """

    kind: str
    round: int
    arrays: State
    expected: State
    statistics: Shapes
    config: ConfigRecord | None = None


class TooFewRepliesError(FederationError):
    """Fewer sites replied than are needed; nothing was unmasked."""


class RoundDriver:
    """The exchanges of one run.

    Args:
        identity: of the run.
        participation: which sites must take part.
        aggregation: combines the replies into one update.
        attempts: number of attempts at a round when too few sites reply.
        deadlines: of each site's replies.
        event: called for every event of the run.

    """

    def __init__(
        self,
        identity: RunIdentity,
        participation: Participation,
        aggregation: Aggregation,
        attempts: int,
        deadlines: ReplyDeadlines,
        event: EventCallback,
    ) -> None:
        self.identity, self.participation, self.aggregation = identity, participation, aggregation
        self.attempts, self.deadlines, self.event = attempts, deadlines, event
        self.members = Members()
        self.exchange = 0
        self.saved_exchange = 0  # the last exchange whose result is in a checkpoint
        self.failed_sites: tuple[str, ...] = ()

    def join(self, grid: Grid, timeout: float) -> None:
        """Gather the sites; exchange numbers continue above the highest one that any of them has seen."""
        request = build_request(self.create_directive(0))
        self.members = gather_members(grid, self.participation, self.aggregation, request, self.event, timeout)
        self.exchange = max(self.exchange, self.aggregation.last_exchange, self.members.last_exchange)
        self.failed_sites = ()

    def rejoin(self, grid: Grid, timeout: float) -> None:
        """Gather the sites again if one failed, connected or disconnected since the last time."""
        if self.failed_sites or set(grid.get_node_ids()) != self.members.connected_nodes:
            failed = self.failed_sites
            self.join(grid, min(timeout, _REJOIN_SECONDS))
            self.failed_sites = tuple(site for site in failed if site in self.members.nodes)

    def create_directive(self, number: int) -> Directive:
        """Return the directive of a new exchange."""
        self.exchange += 1
        cohort = tuple(sorted(self.members.nodes))
        return Directive(self.identity.run, self.identity.digest, number, self.exchange, 0, cohort, self.failed_sites)

    def build_attempt(self, request: RoundRequest, directive: Directive) -> RoundAttempt:
        """Return the description of an attempt for the aggregation."""
        statistics, weights = request.statistics, self.members.weights
        return RoundAttempt(request.kind, directive, request.arrays, request.expected, statistics, weights)

    def run_exchange(self, grid: Grid, request: RoundRequest, timeout: float) -> Aggregate:
        """Send the arrays to all members and aggregate the replies; retry as long as nothing was unmasked.

        If too few sites reply, the request is sent again under a new exchange after the missing sites have reconnected;
        a site that has already replied returns its cached reply and does not train again. If the lead was killed while
        a sum was being unmasked, unmasking is resumed instead.

        Raises:
            FederationError: too few sites replied in every attempt.

        """
        for number in range(self.attempts):
            try:
                return self._try_exchange(grid, request, timeout)
            except TooFewRepliesError as fault:
                self.event("attempt_failed", round=request.round, attempt=number, reason=fault.problem)
                failed = fault
                if number + 1 < self.attempts:
                    self.rejoin(grid, timeout)
        raise failed

    def _try_exchange(self, grid: Grid, request: RoundRequest, timeout: float) -> Aggregate:
        directive = self.create_directive(request.round)
        interrupted = self.aggregation.resume(self.build_attempt(request, directive), self.saved_exchange)
        # a site that has accepted a later exchange no longer unmasks this one: an older checkpoint trains a round again
        if interrupted is not None and interrupted >= self.members.last_exchange:
            self.event("reopened", round=request.round, exchange=interrupted)
            return self.aggregation.close(
                partial(self._send_follow_up, grid, replace(directive, exchange=interrupted), timeout)
            )
        packed = pack_arrays(request.arrays)
        for number in range(self.attempts):
            attempt = replace(directive, attempt=number)
            secret = self.aggregation.open(self.build_attempt(request, attempt))
            content = build_request(attempt, packed, request.config, secret)
            self._collect_replies(grid, request.kind, attempt, content, timeout)
            self._require_quorum(directive)
            try:
                return self.aggregation.close(partial(self._send_follow_up, grid, directive, timeout))
            except AttemptFailedError as fault:
                self.event("attempt_failed", round=request.round, attempt=number, reason=fault.problem)
                failed = fault
        raise failed

    def add_reply(self, reply: Reply, number: int) -> bool:
        """Aggregate one reply; report a site whose reply is an error or invalid, and leave it out of the round."""
        site = self.members.get_site(reply.node)
        if reply.message.has_error():
            reason = describe_error(reply.message.error.code, str(reply.message.error.reason))
            self.event("site_failed", round=number, site=site, reason=reason)
            return False
        try:
            own = self.aggregation.add(site, reply.message.content)
        except FedhealthError as fault:
            self.event("site_failed", round=number, site=site, reason=fault.problem)
            return False
        self.deadlines.record_duration(site, reply.seconds)
        costs = {"seconds": round(reply.seconds, 3), "sent": reply.sent, "received": reply.received}
        self.event("site_answered", round=number, site=site, **costs, own=summarize_statistics(own) if own else None)
        return True

    def _collect_replies(
        self, grid: Grid, kind: str, directive: Directive, content: RecordDict, timeout: float
    ) -> None:
        """Send the request to all members and aggregate replies as they arrive; report sites that miss the deadline."""
        pending = {self.members.nodes[site]: site for site in directive.cohort}
        timeouts = {node: self.deadlines.get_deadline(site, timeout) for node, site in pending.items()}
        failed = []
        for reply in exchange_messages(grid, kind, dict.fromkeys(pending, content), str(directive.round), timeouts):
            site = pending.pop(reply.node)
            if not self.add_reply(reply, directive.round):
                failed.append(site)
        for site in pending.values():
            self.event("site_failed", round=directive.round, site=site, reason="no answer before its deadline")
        self.failed_sites = tuple(sorted([*failed, *pending.values()]))

    def _require_quorum(self, directive: Directive) -> None:
        """Refuse to aggregate fewer replies than the quorum.

        Raises:
            TooFewRepliesError: there are fewer.

        """
        asked, needed = len(directive.cohort), self.participation.required_replies(len(directive.cohort))
        replied = asked - len(self.failed_sites)
        if replied < needed:
            raise TooFewRepliesError(
                f"Round {directive.round}: {replied} of {asked} sites replied, {needed} are needed.",
                "See the sites' own logs; lower strategy.quorum to continue without them.",
            )

    def _send_follow_up(
        self, grid: Grid, directive: Directive, timeout: float, kind: str, requests: Mapping[str, RecordDict]
    ) -> Iterator[tuple[str, RecordDict]]:
        """Send a further request to some sites within a round and yield their replies."""
        record = directive.record()
        contents = {
            self.members.nodes[site]: RecordDict({DIRECTIVE: record, **content})
            for site, content in requests.items()
            if site in self.members.nodes
        }
        self._wait_for_any_node(grid, contents)
        timeouts = dict.fromkeys(contents, min(timeout, _FOLLOW_UP_SECONDS))
        for reply in exchange_messages(grid, kind, contents, str(directive.round), timeouts):
            site = self.members.get_site(reply.node)
            if reply.message.has_content():
                yield site, reply.message.content
            else:
                reason = describe_error(reply.message.error.code, str(reply.message.error.reason))
                self.event("site_refused", round=directive.round, site=site, question=kind, reason=reason)

    def _wait_for_any_node(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Wait until one of the nodes is connected, with an event at each poll; all of them may be restarting."""
        wanted, started = set(nodes), time.monotonic()
        while not wanted & set(grid.get_node_ids()) and time.monotonic() - started < self.participation.join_timeout:
            self.event("waiting", needed=1, missing=sorted(map(self.members.get_site, wanted)))
            time.sleep(NODE_POLL_SECONDS)


def build_request(
    directive: Directive,
    arrays: Packed | None = None,
    config: ConfigRecord | None = None,
    secret: ConfigRecord | None = None,
) -> RecordDict:
    """Return the records of a request to a site."""
    records = {DIRECTIVE: directive.record(), GLOBAL: arrays, "config": config or None, SECAGG: secret}
    return RecordDict({name: record for name, record in records.items() if record is not None})


def build_messages(members: Members, content: RecordDict, kind: str, group: str) -> list[Message]:
    """Return one message for each member."""
    return [Message(content, node, kind, group_id=group) for node in members.nodes.values()]
