"""The releases and failures of a private trainer, in the ledger of its data set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.release import is_recorded_release, record_release
from fedhealth.privacy.context import AccountingContext


class ReleaseRecords:
    """Record what leaves the site, and check what has failed.

    Attributes:
        budget: of the data set.

    """

    budget: PrivacyBudget

    @property
    def dataset(self) -> str:
        """Name of the data set's privacy ledger."""
        return self.budget.dataset

    def check_failures(self, folder: Path) -> None:
        """Check, before any data are touched, that not too many private tasks on the data set have failed.

        Args:
            folder: the site's private folder.

        Raises:
            PrivacyError: too many have failed, or the ledger is damaged.

        """
        self.budget.check_failures(folder)

    def record_release(self, accounting: AccountingContext, digest: str, late_rounds: Collection[int] = ()) -> None:
        """Record that the words with this digest leave the site from now on; on return it is on the disk.

        Raises:
            PrivacyError: no booking pays for them; nothing may leave.

        """
        record_release(accounting.folder, self.budget.dataset, accounting, digest, late_rounds)

    def is_recorded_release(self, accounting: AccountingContext, digest: str) -> bool:
        """Return whether the ledger holds a release of the words with this digest."""
        dataset, run, purpose = self.budget.dataset, accounting.run, accounting.purpose
        return is_recorded_release(accounting.folder, dataset, run, purpose, digest)
