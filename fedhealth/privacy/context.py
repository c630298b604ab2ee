"""The run, site and round that spent privacy is accounted under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedhealth.privacy.accounting.study_share import StudyShare


@dataclass(frozen=True)
class AccountingContext:
    """Where and when a site trains: the run, site and round that a privacy event is booked under.

    Attributes:
        run: the run's id.
        site: the site's name.
        folder: the site's private folder, which outlives the run.
        round: the training round, from 1; 0 before training.
        rounds: the number of rounds of the run.
        purpose: of the request: `train`, `evaluate` or `describe`.
        exchange: number of the exchange that the request belongs to.
        shares: the most honest sites that the noise of a sum can count on; 1 where each site adds its own.
        study: what all runs of the run's study may spend together; None for a run that belongs to none.

    """

    run: str
    site: str
    folder: Path
    round: int
    rounds: int
    purpose: str = "train"
    exchange: int = 0
    shares: int = 1
    study: StudyShare | None = None
