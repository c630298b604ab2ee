"""The lead's question to every site before a sweep's first run: will you keep the privacy budget that it takes?"""

from __future__ import annotations

from flwr.serverapp import Grid

from fedhealth.config.schema import StrategyConfig
from fedhealth.protocol.budget_request import Statement
from fedhealth.protocol.messages import Directive
from strategies.aggregation.mean import WeightedMean
from strategies.messaging import Event
from strategies.participants import Cohort, gather
from strategies.round_driver import Identity, question_of


def ask(
    grid: Grid, identity: Identity, sites: tuple[str, ...], lead: StrategyConfig, statement: Statement, event: Event
) -> None:
    """Ask all sites; nothing is trained. To give back (no runs to come), whoever is there is enough.

    Raises:
        FederationError: too few reserve, with each site's reasons.

    """
    gives_back = not statement.runs
    cohort = Cohort(sites, 1, wait=0.0) if gives_back else Cohort(sites, lead.min_sites, wait=lead.wait)
    question = question_of(Directive(identity.run, identity.digest, 0, 1, 0, ()))
    members = gather(grid, cohort, WeightedMean(), question, event, lead.round_timeout)
    event("reserved", sweep=statement.sweep, stated=statement.epsilon, sites=members.reserved)
