"""Who takes part: the sites the configuration names, and those of them that accept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.messages import HANDSHAKE, SITE_ERROR, Acceptance
from strategies.aggregation.base import Aggregation
from strategies.messaging import Event, exchange, wait_for_nodes

_TRIES = 4  # to hear from a site that is there and does not answer, or whose process crashed
_JOIN_SECONDS = 60.0  # for the whole cohort to connect
_AGAIN_SECONDS = 15.0  # until all are asked again: a site that was started again looks like one that never went
LOOK_SECONDS = 2.0  # between two looks while a site is awaited


@dataclass(frozen=True)
class Cohort:
    """Who should take part.

    Attributes:
        sites: names the configuration expects.
        min_sites: how many must accept and answer every round; None means all of them.
        quorum: share of the asked that must answer in a round.
        wait: seconds to wait for missing sites when too few are there.

    """

    sites: tuple[str, ...]
    min_sites: int | None = None
    quorum: float = 1.0
    wait: float = 0.0

    @property
    def needed(self) -> int:
        """How many sites must accept."""
        return self.min_sites or len(self.sites)

    def answers_needed(self, asked: int) -> int:
        """Return how many of `asked` must answer a round."""
        return max(math.ceil(self.quorum * asked), 1)


@dataclass
class Members:
    """The sites that accepted: node id and announced weights (by tower) by name.

    Attributes:
        nodes: node id by name.
        weights: by name and tower.
        seen: all nodes that were connected.
        last_exchange: the latest that any of them took part in.
        unheard: connected nodes that gave no answer of their own.
        reserved: to a sweep's statement, the epsilon that each keeps for its runs, by name.

    """

    nodes: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Mapping[str, float]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    last_exchange: int = 0
    unheard: set[int] = field(default_factory=set)
    reserved: dict[str, float] = field(default_factory=dict)

    def name_of(self, node: int) -> str:
        """Return the site at a node."""
        return next(name for name, known in self.nodes.items() if known == node)


def gather(
    grid: Grid, cohort: Cohort, aggregation: Aggregation, question: RecordDict, event: Event, timeout: float
) -> Members:
    """Ask every node whether it takes part; return those that accept and that the aggregation admits.

    Too few are waited for, visibly, as long as some are not connected.

    Raises:
        FederationError: fewer accept than are needed, with each site's reasons.

    """
    started, expected, tries = time.monotonic(), len(cohort.sites), 0
    while True:
        nodes = wait_for_nodes(grid, expected, min(timeout, _JOIN_SECONDS))
        members, declined = _handshake(grid, nodes, cohort, aggregation, question, event, timeout)
        if len(members.nodes) >= cohort.needed:
            return members
        tries += 1
        final = len(nodes) >= expected and not (members.unheard and tries < _TRIES)
        if final or time.monotonic() - started >= cohort.wait:
            raise _too_few(members, declined, cohort)
        missing = sorted(set(cohort.sites) - set(members.nodes))
        event("waiting", needed=cohort.needed - len(members.nodes), missing=missing)
        looked = time.monotonic()
        while set(grid.get_node_ids()) == members.seen and time.monotonic() - looked < min(cohort.wait, _AGAIN_SECONDS):
            time.sleep(LOOK_SECONDS)


def _handshake(
    grid: Grid,
    nodes: Sequence[int],
    cohort: Cohort,
    aggregation: Aggregation,
    question: RecordDict,
    event: Event,
    timeout: float,
) -> tuple[Members, dict[str, str]]:
    """Return who accepted, and the others' reasons."""
    members, declined = Members(seen=set(nodes)), dict[str, str]()
    limits = dict.fromkeys(nodes, timeout)  # a site's first answer may have to read all of its files
    members.unheard = set(nodes)
    for reply in exchange(grid, HANDSHAKE, dict.fromkeys(nodes, question), "0", limits):
        if reply.message.has_error():
            declined[f"node {reply.node}"] = str(reply.message.error.reason)
            if reply.message.error.code > SITE_ERROR:  # the site has found a fault; others pass with a new process
                members.unheard.discard(reply.node)
            continue
        members.unheard.discard(reply.node)
        try:
            answer = Acceptance.parse(reply.message.content)
        except FedhealthError as fault:
            declined[f"node {reply.node}"] = fault.problem
            event("handshake", site=f"node {reply.node}", reasons=[fault.problem], versions="")
            continue
        event("handshake", site=answer.site, reasons=list(answer.reasons), versions=answer.versions)
        if answer.reasons:
            declined[answer.site] = "; ".join(answer.reasons)
        elif answer.site not in cohort.sites or answer.site in members.nodes:
            declined[answer.site] = "not a site of this run, or its name is taken"
        else:
            try:
                aggregation.admit(answer.site, reply.message.content)
            except FedhealthError as fault:
                declined[answer.site] = fault.problem
                continue
            members.nodes[answer.site] = reply.node
            members.weights[answer.site] = answer.weights
            members.reserved[answer.site] = answer.reserved
            members.last_exchange = max(members.last_exchange, answer.exchange)
    declined = {f"node {node}": "no answer" for node in members.unheard} | declined
    return members, declined


def _too_few(members: Members, declined: Mapping[str, str], cohort: Cohort) -> FederationError:
    reasons = "".join(f"\n  {site}: {why}" for site, why in declined.items())
    return FederationError(
        f"{len(members.nodes)} of {len(cohort.sites)} sites accepted, {cohort.needed} are needed.{reasons}",
        "Ask the sites named above, or lower strategy.min_sites.",
    )
