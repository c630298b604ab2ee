"""Where a site's files are, and which run a message belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedhealth.privacy.accounting.study_share import StudyShare
from fedhealth.site.policy import SIMULATION_LIMITS, SiteLimits


@dataclass(frozen=True)
class SiteContext:
    """A site's name and folders.

    Attributes:
        name: of the site.
        folder: its private folder, which outlives runs: privacy ledgers, approved members.
        keys: the folder of its identity key.
        arrays: the folder of the files it keeps for one run.
        limits: what may leave, from the site's own policy.
        audit: path of the audit log; None for a virtual site.
        dataset: the hospital's own name for the data of the run; empty for a virtual site.
        study: what all runs of the run's study may spend here; None without one, or without differential privacy.

    """

    name: str
    folder: Path
    keys: Path
    arrays: Path
    limits: SiteLimits = SIMULATION_LIMITS
    audit: Path | None = None
    dataset: str = ""
    study: StudyShare | None = None

    @property
    def is_virtual(self) -> bool:
        """Whether this is a site of a run on one machine, whose files belong to that run alone."""
        return self.audit is None

    @classmethod
    def virtual(cls, name: str, folder: Path) -> SiteContext:
        """Return a site of a run on one machine: all its files are in one folder."""
        return cls(name, folder, folder, folder)


@dataclass(frozen=True)
class RunContext:
    """A site in a run.

    Attributes:
        run: the run's id.
        digest: of the run's configuration.
        site: the site.
        data: identifies the site's data, whatever name the run has for them.

    """

    run: str
    digest: str
    site: SiteContext
    data: str = ""
