"""Find the participants: the sites of the configuration that are connected and accept the run."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.messages import HANDSHAKE, SITE_ERROR, TASK_ERROR, Acceptance
from fedhealth.protocol.refusals import POLICY_FIX, explain_error, is_lasting_refusal
from strategies.aggregation.base import Aggregation
from strategies.messaging import EventCallback, Reply, exchange_messages, wait_for_nodes

_ATTEMPTS = 4  # at the handshake, if a connected site does not reply or its process crashed
_CONNECT_SECONDS = 60.0  # for all sites to connect
_SILENT_SECONDS = 10.0  # for a connected site that did not reply to the last handshake
_REPEAT_SECONDS = 15.0  # until the handshake is repeated: a restarted site cannot be told from one that stayed
_ASK_STATUS = "Ask its staff to run `fedhealth site status`."
NODE_POLL_SECONDS = 2.0  # between two polls while a site is awaited


@dataclass(frozen=True)
class Participation:
    """Which sites must take part.

    Attributes:
        sites: names of the configured sites.
        min_sites: how many must accept and reply in every round; None means all.
        quorum: share of the requested sites that must reply in a round.
        join_timeout: seconds to wait for missing sites if too few are connected.
        names: of the members by node id, as the lead registered them; empty where nodes have no keys.

    """

    sites: tuple[str, ...]
    min_sites: int | None = None
    quorum: float = 1.0
    join_timeout: float = 0.0
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def required_sites(self) -> int:
        """How many sites must accept."""
        return self.min_sites or len(self.sites)

    def required_replies(self, requested: int) -> int:
        """Return how many of `requested` sites must reply in a round."""
        return max(math.ceil(self.quorum * requested), 1)

    def name_node(self, node: int) -> str:
        """Return the member's name; the node's id where it is not known."""
        return self.names.get(node, f"node {node}")


@dataclass(frozen=True)
class Decline:
    """Why a site does not take part, and how to fix it.

    Attributes:
        reasons: one or more.
        fix: one sentence; empty if there is none.

    """

    reasons: tuple[str, ...]
    fix: str

    @property
    def text(self) -> str:
        """Reasons and fix."""
        return f"{'; '.join(self.reasons)}. {self.fix}".strip()


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
    silent_nodes: Collection[int] = (),
) -> Members:
    """Run the handshake with every node; return the sites that accept and that the aggregation admits.

    If too few accept and some are not connected, wait for them up to `join_timeout` and report a `waiting` event. The
    nodes that did not reply the last time have ten seconds only: a site that hangs must not delay every round.

    Raises:
        FederationError: fewer sites accept than are required; the message lists each site's reasons.

    """
    started, expected, attempts = time.monotonic(), len(participation.sites), 0
    while True:
        nodes = wait_for_nodes(grid, expected, min(timeout, _CONNECT_SECONDS))
        members, declined = _run_handshake(
            grid, nodes, participation, aggregation, request, event, timeout, silent_nodes
        )
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
    silent_nodes: Collection[int],
) -> tuple[Members, dict[str, Decline]]:
    """Return the sites that accepted, and why the others did not."""
    handshake = _Handshake(participation, aggregation, event, Members(connected_nodes=set(nodes)))
    handshake.members.unresponsive_nodes = set(nodes)
    timeouts = dict.fromkeys(nodes, timeout)  # for its first reply, a site may have to read all of its files
    timeouts |= {node: min(timeout, _SILENT_SECONDS) for node in silent_nodes if node in timeouts}
    for reply in exchange_messages(grid, HANDSHAKE, dict.fromkeys(nodes, request), "0", timeouts):
        handshake.add_reply(reply)
    return handshake.members, handshake.declined | handshake.find_silent_sites()


@dataclass
class _Handshake:
    """The replies to one handshake."""

    participation: Participation
    aggregation: Aggregation
    event: EventCallback
    members: Members
    declined: dict[str, Decline] = field(default_factory=dict)

    def add_reply(self, reply: Reply) -> None:
        """Admit the site, or note why not."""
        name = self.participation.name_node(reply.node)
        if reply.message.has_error():
            code, kind = reply.message.error.code, str(reply.message.error.reason)
            if is_lasting_refusal(code) or (code > SITE_ERROR and code != TASK_ERROR):
                self.members.unresponsive_nodes.discard(reply.node)  # the other errors disappear with a new process
            problem, fix = explain_error(code, kind)
            self._decline(name, Decline((problem,), fix))
            return
        self.members.unresponsive_nodes.discard(reply.node)
        try:
            acceptance = Acceptance.parse(reply.message.content)
            self._require_own_name(acceptance.site, reply.node)
        except FedhealthError as fault:
            self._decline(name, Decline((fault.problem,), fault.advice))
            return
        if acceptance.reasons:
            self._decline(acceptance.site, Decline(acceptance.reasons, POLICY_FIX), acceptance.versions)
        elif problem := self._try_to_admit(acceptance, reply):
            self._decline(acceptance.site, Decline((problem,), ""), acceptance.versions)
        else:
            privacy = {"privacy": asdict(acceptance.privacy)} if acceptance.privacy.epsilon else {}
            self.event("handshake", site=acceptance.site, reasons=[], versions=acceptance.versions, **privacy)

    def find_silent_sites(self) -> dict[str, Decline]:
        """Return the sites that did not reply and, where the nodes' names are known, those that are not connected."""
        silent = {self.participation.name_node(node) for node in self.members.unresponsive_nodes} - set(self.declined)
        found = {name: Decline(("no reply",), _ASK_STATUS) for name in sorted(silent)}
        if self.participation.names:
            others = set(self.participation.sites) - set(self.members.nodes) - set(self.declined) - silent
            found |= {name: Decline(("not connected",), _ASK_STATUS) for name in sorted(others)}
        return found

    def _decline(self, name: str, decline: Decline, versions: str = "") -> None:
        self.declined[name] = decline
        self.event("handshake", site=name, reasons=list(decline.reasons), versions=versions, fix=decline.fix)

    def _require_own_name(self, claimed: str, node: int) -> None:
        known = self.participation.names.get(node)
        if known is not None and claimed != known:
            raise FederationError(f"it calls itself {claimed[:64]!r}", "Its key belongs to another member: ask both.")

    def _try_to_admit(self, acceptance: Acceptance, reply: Reply) -> str:
        """Admit a site that accepts; return why it cannot take part, if so."""
        members = self.members
        if acceptance.site not in self.participation.sites or acceptance.site in members.nodes:
            return "not a site of this run, or its name is in use"
        try:
            self.aggregation.admit(acceptance.site, reply.message.content)
        except FedhealthError as fault:
            return fault.problem
        members.nodes[acceptance.site] = reply.node
        members.weights[acceptance.site] = acceptance.weights
        members.reserved_epsilon[acceptance.site] = acceptance.reserved
        members.last_exchange = max(members.last_exchange, acceptance.exchange)
        return ""


def _build_too_few_error(
    members: Members, declined: Mapping[str, Decline], participation: Participation
) -> FederationError:
    accepted = f"{len(members.nodes)} of {len(participation.sites)} sites accepted"
    reasons = "".join(f"\n  {site}: {decline.text}" for site, decline in declined.items())
    return FederationError(
        f"{accepted}, {participation.required_sites} are needed.{reasons}",
        "Ask the sites named above, or lower strategy.min_sites.",
    )
