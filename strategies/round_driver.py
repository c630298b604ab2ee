"""Drive one run's exchanges with the sites: gather members, send requests, aggregate the replies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError, ModelError
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.messages import DIRECTIVE, HANDSHAKE, Directive, is_error_kind
from fedhealth.protocol.refusals import describe_error
from fedhealth.utils.own_code import OwnCodeError
from strategies.aggregation.base import Aggregate, Aggregation, AttemptFailedError, RoundAttempt
from strategies.aggregation.checks import check_result
from strategies.deadlines import ReplyDeadlines
from strategies.messaging import EventCallback, Reply, exchange_messages
from strategies.noise_watch import NoiseWatch
from strategies.participants import NODE_POLL_SECONDS, Members, Participation, gather_members
from strategies.round_request import RoundRequest, RunIdentity, build_request
from strategies.statistics import summarize_statistics

_REJOIN_SECONDS = 60.0  # for a site that has already joined to answer the handshake again
_FOLLOW_UP_SECONDS = 300.0  # for a request without training: enough for a site's machine to restart


class TooFewRepliesError(FederationError):
    """Fewer sites replied than are needed; nothing was unmasked.

    Attributes:
        is_lasting: whether so many sites failed in a way that another attempt does not change.

    """

    def __init__(self, problem: str, advice: str, is_lasting: bool = False) -> None:
        super().__init__(problem, advice)
        self.is_lasting = is_lasting


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
        self.diverged_sites: set[str] = set()  # a site's training is seeded: it fails in every attempt at a round
        self.noise = NoiseWatch(event)

    def join(self, grid: Grid, timeout: float) -> None:
        """Gather the sites; exchange numbers continue above the highest one that any of them has seen."""
        request, silent = build_request(self.create_directive(HANDSHAKE, 0)), self.members.unresponsive_nodes
        self.members = gather_members(grid, self.participation, self.aggregation, request, self.event, timeout, silent)
        self.exchange = max(self.exchange, self.aggregation.last_exchange, self.members.last_exchange)
        self.failed_sites = ()

    def rejoin(self, grid: Grid, timeout: float) -> None:
        """Gather the sites again if one failed, connected, disconnected or did not reply the last time."""
        members, connected = self.members, set(grid.get_node_ids())
        if self.failed_sites or members.unresponsive_nodes or connected != members.connected_nodes:
            failed = self.failed_sites
            self.join(grid, min(timeout, _REJOIN_SECONDS))
            self.failed_sites = tuple(site for site in failed if site in self.members.nodes)

    def create_directive(self, kind: str, number: int, repetition: int = 0) -> Directive:
        """Return the directive of a new exchange; `repetition` is the exchange in which it was first asked for."""
        self.exchange += 1
        return self._build_directive(kind, number, self.exchange, repetition or self.exchange)

    def _build_directive(self, kind: str, number: int, exchange: int, repetition: int) -> Directive:
        cohort = self.aggregation.choose_sites(kind, sorted(self.members.nodes))
        missed = tuple(site for site in self.failed_sites if site in cohort)
        return Directive(self.identity.run, self.identity.digest, number, exchange, 0, cohort, missed, repetition)

    def build_attempt(self, request: RoundRequest, directive: Directive) -> RoundAttempt:
        """Return the description of an attempt for the aggregation."""
        weights, sensitivity = self.members.weights, request.sensitivity
        return RoundAttempt(
            request.kind, directive, request.arrays, request.expected, request.statistics, weights, sensitivity
        )

    def run_exchange(self, grid: Grid, request: RoundRequest, timeout: float) -> Aggregate:
        """Send the arrays to all members and aggregate the replies; retry as long as nothing was unmasked.

        A result that is already on the disk is returned. If the lead was killed while a sum was being unmasked,
        unmasking is resumed. Otherwise, the request is sent; if an attempt fails, it is sent again under a new exchange
        after the missing sites have reconnected, and a site that has already replied does not train again.

        Raises:
            FederationError: too few sites replied in every attempt.

        """
        opened = self.aggregation.load_opened(request.kind, request.round, request.arrays)
        if opened is not None:
            self.event("reused", round=request.round, sites=list(opened.sites))
        else:
            opened = self._resume_unmasking(grid, request, timeout)
            if opened is None:
                opened = self._attempt_exchange(grid, request, timeout)
        self.noise.check_sum(request.round, opened.blanks)
        return opened

    def _attempt_exchange(self, grid: Grid, request: RoundRequest, timeout: float) -> Aggregate:
        """Send a request until it is answered, in as many attempts as are allowed."""
        repetition = self._find_repetition(request)
        for number in range(self.attempts):
            directive = self.create_directive(request.kind, request.round, repetition)
            repetition = directive.repetition
            try:
                return self._try_exchange(grid, request, directive, timeout)
            except (TooFewRepliesError, AttemptFailedError) as fault:
                self.event("attempt_failed", round=request.round, attempt=number, reason=fault.problem)
                failed: FederationError = fault
                if isinstance(fault, TooFewRepliesError) and fault.is_lasting:
                    break
                if number + 1 < self.attempts:
                    self.rejoin(grid, timeout)
        raise failed

    def _find_repetition(self, request: RoundRequest) -> int:
        """Return the exchange in which an interrupted request was first made; 0 if the sites must answer it anew."""
        found = self.aggregation.find_repetition(request.kind, request.round, request.arrays)
        # sites that have accepted a later exchange than this lead remembers do not answer an earlier request again
        return 0 if self.members.last_exchange > self.aggregation.last_exchange else found

    def _resume_unmasking(self, grid: Grid, request: RoundRequest, timeout: float) -> Aggregate | None:
        """Resume the unmasking in which the lead was killed; None if there is none, or if it cannot be completed.

        A sum that can neither be opened nor abandoned is given up: the request is then answered anew.
        """
        directive = self._build_directive(request.kind, request.round, self.exchange, self.exchange)
        interrupted = self.aggregation.resume(self.build_attempt(request, directive), self.saved_exchange)
        if interrupted is None:
            return None
        self.event("reopened", round=request.round, exchange=interrupted)
        directive = replace(directive, exchange=interrupted)
        try:
            # a site that has accepted a later exchange no longer unmasks this one
            if interrupted >= self.members.last_exchange:
                return self.aggregation.close(partial(self._send_follow_up, grid, directive, timeout))
        except AttemptFailedError as fault:  # abandoned: the sites mask the same words again
            self.event("attempt_failed", round=request.round, attempt=0, reason=fault.problem)
            return None
        except OwnCodeError:
            raise
        except FedhealthError as fault:
            self.event("attempt_failed", round=request.round, attempt=0, reason=fault.problem)
        self.aggregation.give_up()
        return None

    def _try_exchange(self, grid: Grid, request: RoundRequest, directive: Directive, timeout: float) -> Aggregate:
        """Send a request to all members and aggregate the replies.

        Raises:
            TooFewRepliesError: below the quorum.
            AttemptFailedError: the attempt failed, and nothing of it can be unmasked.
            ConfigError: the aggregation returned no update of this model.

        """
        attempt = self.build_attempt(request, directive)
        secret = self.aggregation.open(attempt)
        content = build_request(directive, pack_arrays(request.arrays), request.config, secret)
        contents = {site: self.aggregation.complete_request(site, content) for site in directive.cohort}
        self._collect_replies(grid, request.kind, directive, contents, timeout)
        self._require_quorum(directive)
        result = self.aggregation.close(partial(self._send_follow_up, grid, directive, timeout))
        check_result(self.aggregation, result, attempt.expected)
        return result

    def add_reply(self, reply: Reply, number: int) -> bool:
        """Aggregate one reply; report a site whose reply is an error or invalid, and leave it out of the round."""
        site = self.members.get_site(reply.node)
        if reply.message.has_error():
            code, kind = reply.message.error.code, str(reply.message.error.reason)
            if is_error_kind(code, kind) and kind == ModelError.__name__:
                self.diverged_sites.add(site)
            self.event("site_failed", round=number, site=site, reason=describe_error(code, kind))
            return False
        try:
            own = self.aggregation.add(site, reply.message.content)
        except OwnCodeError:
            raise
        except FedhealthError as fault:
            self.event("site_failed", round=number, site=site, reason=fault.problem)
            return False
        self.deadlines.record_duration(site, reply.seconds)
        costs = {"seconds": round(reply.seconds, 3), "sent": reply.sent, "received": reply.received}
        self.event("site_answered", round=number, site=site, **costs, own=summarize_statistics(own) if own else None)
        return True

    def _collect_replies(
        self, grid: Grid, kind: str, directive: Directive, contents: Mapping[str, RecordDict], timeout: float
    ) -> None:
        """Send each site its request and aggregate replies as they arrive; report sites that miss the deadline."""
        pending = {self.members.nodes[site]: site for site in directive.cohort}
        timeouts = {node: self.deadlines.get_deadline(site, timeout) for node, site in pending.items()}
        requests = {node: contents[site] for node, site in pending.items()}
        failed = []
        self.diverged_sites.clear()
        for reply in exchange_messages(grid, kind, requests, str(directive.round), timeouts):
            site = pending.pop(reply.node)
            if not self.add_reply(reply, directive.round):
                failed.append(site)
            del reply  # before the next one arrives: it is as large as the model
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
                "See the sites' own logs; lower strategy.quorum to continue without them."
                if replied
                else "All failed: see the first message above, or a site's own log.",
                is_lasting=asked - len(self.diverged_sites) < needed,
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
