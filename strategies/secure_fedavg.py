"""FedAvg with secure aggregation for own Flower apps: the lead learns sums, never a single client's update or metric.

The clients' half is `clients.SecureClientApp`. See docs/secure-aggregation.md for the protocol.
"""

from __future__ import annotations

from pathlib import Path

from fedhealth.protocol.secure_terms import SecureTerms
from strategies.aggregation.secure import SecureSum
from strategies.fedavg import FedAvg
from strategies.messaging import EventCallback
from strategies.participants import Participation
from strategies.round_request import RunIdentity
from strategies.server_optimizers.averaging import Averaging
from strategies.server_optimizers.base import ServerOptimizer


class SecureFedAvg(FedAvg):
    """FedAvg whose updates and metrics are summed under masks.

    Args:
        terms: of the run; the sites have the same.
        folder: the lead's own, with the list of members (see `save_roster`); the state of the protocol is stored there.
        server_optimizer: turns the mean update into the next model; None adds it.
        min_sites: how many sites must take part in every round; None means all.
        event: called for every event of the run, such as `round_completed` and `site_failed`.

    Raises:
        SecureAggregationError: there is no list of members, or too few sites for a sum that hides each of them.

    """

    def __init__(
        self,
        terms: SecureTerms,
        folder: Path,
        server_optimizer: ServerOptimizer | None = None,
        min_sites: int | None = None,
        event: EventCallback = lambda kind, **fields: None,
    ) -> None:
        aggregation = SecureSum(terms.bits, terms.clipping_range, sites=terms.sites)
        aggregation.start(terms.run, terms.digest, folder)
        quorum = 1.0 if min_sites is None else min_sites / len(terms.sites)
        super().__init__(
            RunIdentity(terms.run, terms.digest),
            Participation(terms.sites, min_sites, quorum),
            aggregation,
            server_optimizer or Averaging(),
            statistics=terms.statistics,
            event=event,
        )
