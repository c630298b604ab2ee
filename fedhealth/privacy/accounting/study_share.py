"""A study's share of a data set's budget, as numbers; it imports no accountant, whose libraries take seconds."""

from __future__ import annotations

from dataclasses import dataclass

STUDY_PREFIX = "study "  # the ids of runs and sweeps hold no space


@dataclass(frozen=True)
class StudyShare:
    """What all runs of a study may spend at a site.

    Attributes:
        name: of the study, the same in all its versions.
        runs: how many runs it has.
        epsilon: of all of them together.
        delta: at which epsilon holds.
        expires_at: end of its last day, seconds since 1970.

    """

    name: str
    runs: int
    epsilon: float
    delta: float
    expires_at: float

    @property
    def key(self) -> str:
        """The name of its reservations and bookings in the ledger."""
        return get_study_key(self.name)

    def name_slot(self, number: int) -> str:
        """Return the name under which a run that has not been ordered yet is reserved."""
        return f"{self.key} run {number}"

    def is_slot(self, run: str) -> bool:
        """Return whether a reservation is for a run that has not been ordered yet."""
        return run.startswith(f"{self.key} run ")


def get_study_key(name: str) -> str:
    """Return the name of a study's reservations and bookings in a ledger; no run and no sweep is called so."""
    return f"{STUDY_PREFIX}{name}"
