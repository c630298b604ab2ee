"""Find the participants: the sites of the configuration that are connected and accept the run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.messages import HANDSHAKE, SITE_ERROR, TASK_ERROR, Acceptance
from strategies.aggregation.base import Aggregation
from strategies.messaging import EventCallback, exchange_messages, wait_for_nodes

_ATTEMPTS = 4  # at the handshake, if a connected site does not reply or its process crashed
_CONNECT_SECONDS = 60.0  # for all sites to connect
_REPEAT_SECONDS = 15.0  # until the handshake is repeated: a restarted site cannot be told from one that stayed
NODE_POLL_SECONDS = 2.0  # between two polls while a site is awaited


@dataclass(frozen=True)
class Participation:
    """Which sites must take part.

    Attributes:
        sites: names of the configured sites.
        min_sites: how many must accept and reply in every round; None means all.
        quorum: share of the requested sites that must reply in a round.
        join_timeout: seconds to wait for missing sites if too few are connected.

    """

    sites: tuple[str, ...]
    min_sites: int | None = None
    quorum: float = 1.0
    join_timeout: float = 0.0

    @property
    def required_sites(self) -> int:
        """How many sites must accept."""
        return self.min_sites or len(self.sites)

    def required_replies(self, requested: int) -> int:
        """Return how many of `requested` sites must reply in a round."""
        return max(math.ceil(self.quorum * requested), 1)


@dataclass
class Members:
    """The sites that accepted: node id and announced weights (by tower) by name.

    Attributes:
        nodes: node id by name.
        weights: by name and tower.
        connected_nodes: all nodes that were connected.
        last_exchange: the latest exchange that any of them took part in.
        unresponsive_nodes: connected nodes without a reply of their own.
        reserved_epsilon: for a budget request, the epsilon that each site reserves, by name.

    """

    nodes: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Mapping[str, float]] = field(default_factory=dict)
    connected_nodes: set[int] = field(default_factory=set)
    last_exchange: int = 0
    unresponsive_nodes: set[int] = field(default_factory=set)
    reserved_epsilon: dict[str, float] = field(default_factory=dict)

    def get_site(self, node: int) -> str:
        """Return the name of the site at a node."""
        return next(name for name, known in self.nodes.items() if known == node)


def gather_members(
    grid: Grid,
    participation: Participation,
    aggregation: Aggregation,
    request: RecordDict,
    event: EventCallback,
    timeout: float,
) -> Members:
    """Run the handshake with every node; return the sites that accept and that the aggregation admits.

    If too few accept and some are not connected, wait for them up to `join_timeout` and report a `waiting` event.

    Raises:
        FederationError: fewer sites accept than are required; the message lists each site's reasons.

    """
    started, expected, attempts = time.monotonic(), len(participation.sites), 0
    while True:
        nodes = wait_for_nodes(grid, expected, min(timeout, _CONNECT_SECONDS))
        members, declined = _run_handshake(grid, nodes, participation, aggregation, request, event, timeout)
        if len(members.nodes) >= participation.required_sites:
            return members
        attempts += 1
        final = len(nodes) >= expected and not (members.unresponsive_nodes and attempts < _ATTEMPTS)
        if final or time.monotonic() - started >= participation.join_timeout:
            raise _build_too_few_error(members, declined, participation)
        missing = sorted(set(participation.sites) - set(members.nodes))
        event("waiting", needed=participation.required_sites - len(members.nodes), missing=missing)
        polled = time.monotonic()
        while set(grid.get_node_ids()) == members.connected_nodes and time.monotonic() - polled < min(
            participation.join_timeout, _REPEAT_SECONDS
        ):
            time.sleep(NODE_POLL_SECONDS)


def _run_handshake(
    grid: Grid,
    nodes: Sequence[int],
    participation: Participation,
    aggregation: Aggregation,
    request: RecordDict,
    event: EventCallback,
    timeout: float,
) -> tuple[Members, dict[str, str]]:
    """Return the sites that accepted, and the reasons of the others."""
    members, declined = Members(connected_nodes=set(nodes)), dict[str, str]()
    timeouts = dict.fromkeys(nodes, timeout)  # for its first reply, a site may have to read all of its files
    members.unresponsive_nodes = set(nodes)
    for reply in exchange_messages(grid, HANDSHAKE, dict.fromkeys(nodes, request), "0", timeouts):
        if reply.message.has_error():
            declined[f"node {reply.node}"] = str(reply.message.error.reason)
            code = reply.message.error.code
            if code > SITE_ERROR and code != TASK_ERROR:  # lasting; the others disappear with a new process
                members.unresponsive_nodes.discard(reply.node)
            continue
        members.unresponsive_nodes.discard(reply.node)
        try:
            acceptance = Acceptance.parse(reply.message.content)
        except FedhealthError as fault:
            declined[f"node {reply.node}"] = fault.problem
            event("handshake", site=f"node {reply.node}", reasons=[fault.problem], versions="")
            continue
        event("handshake", site=acceptance.site, reasons=list(acceptance.reasons), versions=acceptance.versions)
        if acceptance.reasons:
            declined[acceptance.site] = "; ".join(acceptance.reasons)
        elif acceptance.site not in participation.sites or acceptance.site in members.nodes:
            declined[acceptance.site] = "not a site of this run, or its name is in use"
        else:
            try:
                aggregation.admit(acceptance.site, reply.message.content)
            except FedhealthError as fault:
                declined[acceptance.site] = fault.problem
                continue
            members.nodes[acceptance.site] = reply.node
            members.weights[acceptance.site] = acceptance.weights
            members.reserved_epsilon[acceptance.site] = acceptance.reserved
            members.last_exchange = max(members.last_exchange, acceptance.exchange)
    declined = {f"node {node}": "no reply" for node in members.unresponsive_nodes} | declined
    return members, declined


def _build_too_few_error(
    members: Members, declined: Mapping[str, str], participation: Participation
) -> FederationError:
    accepted = f"{len(members.nodes)} of {len(participation.sites)} sites accepted"
    reasons = "".join(f"\n  {site}: {why}" for site, why in declined.items())
    return FederationError(
        f"{accepted}, {participation.required_sites} are needed.{reasons}",
        "Ask the sites named above, or lower strategy.min_sites.",
    )
