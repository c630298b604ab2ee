"""Where and when a site spends privacy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it books at places that are defined here
    pass


@dataclass(frozen=True)
class Place:
    """Where and when a site trains: what a privacy budget is booked under.

    Attributes:
        run: the run's id.
        site: the site's name.
        folder: the site's private folder, outliving the run.
        round: the training round, from 1; 0 before training.
        rounds: how many the run will have.
        released: whether something of this round may have left already; if not, what was booked for it was not spent.

    """

    run: str
    site: str
    folder: Path
    round: int
    rounds: int
    released: bool = True
