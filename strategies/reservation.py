"""Request reservations of privacy budget from every site before a sweep's first run."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.serverapp import Grid

from fedhealth.config.schema import StrategyConfig
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.messages import Directive
from strategies.aggregation.mean import WeightedMean
from strategies.messaging import EventCallback
from strategies.participants import Participation, gather_members
from strategies.round_request import RunIdentity, build_request


def request_reservations(
    grid: Grid,
    identity: RunIdentity,
    sites: tuple[str, ...],
    lead: StrategyConfig,
    budget_request: BudgetRequest,
    event: EventCallback,
    names: Mapping[int, str],
) -> None:
    """Send the budget request to all sites; nothing is trained. A request without runs releases the reservations.

    Raises:
        FederationError: too few sites reserve; the message lists each site's reasons.

    """
    is_release = not budget_request.runs  # then the connected sites are enough
    participation = (
        Participation(sites, 1, join_timeout=0.0, names=names)
        if is_release
        else Participation(sites, lead.min_sites, join_timeout=lead.join_timeout, names=names)
    )
    request = build_request(Directive(identity.run, identity.digest, 0, 1, 0, ()))
    members = gather_members(grid, participation, WeightedMean(), request, event, lead.round_timeout)
    event("reserved", sweep=budget_request.sweep, stated=budget_request.epsilon, sites=members.reserved_epsilon)
