"""Who takes part: the sites the configuration names, and those of them that accept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.wire import HANDSHAKE, Acceptance
from strategies.aggregation.contract import Aggregation
from strategies.rounds import Event, exchange, wait_for_nodes

_JOIN_SECONDS = 60.0


@dataclass(frozen=True)
class Cohort:
    """Who should take part.

    Attributes:
        sites: names the configuration expects.
        min_sites: how many must accept and answer every round; None means all of them.
        quorum: share of the asked that must answer in a round.

    """

    sites: tuple[str, ...]
    min_sites: int | None = None
    quorum: float = 1.0

    @property
    def needed(self) -> int:
        """How many sites must accept."""
        return self.min_sites or len(self.sites)

    def answers_needed(self, asked: int) -> int:
        """Return how many of `asked` must answer a round."""
        return max(math.ceil(self.quorum * asked), 1)


@dataclass
class Members:
    """The sites that accepted: node id and announced weights (by tower) by name."""

    nodes: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def name_of(self, node: int) -> str:
        """Return the site at a node."""
        return next(name for name, known in self.nodes.items() if known == node)


def gather(
    grid: Grid, cohort: Cohort, aggregation: Aggregation, question: RecordDict, event: Event, timeout: float
) -> Members:
    """Ask every node whether it takes part; return those that accept and that the aggregation admits.

    Raises:
        FederationError: fewer accept than are needed, with each site's reasons.

    """
    members = Members()
    declined: dict[str, str] = {}
    nodes = wait_for_nodes(grid, len(cohort.sites), min(timeout, _JOIN_SECONDS))
    for reply in exchange(grid, HANDSHAKE, dict.fromkeys(nodes, question), "0", timeout):
        if reply.message.has_error():
            declined[f"node {reply.node}"] = str(reply.message.error.reason)
            continue
        answer = Acceptance.parse(reply.message.content)
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
    if len(members.nodes) < cohort.needed:
        reasons = "".join(f"\n  {site}: {why}" for site, why in declined.items())
        raise FederationError(
            f"{len(members.nodes)} of {len(cohort.sites)} sites accepted, {cohort.needed} are needed.{reasons}",
            "Ask the sites named above, or lower strategy.min_sites.",
        )
    return members
