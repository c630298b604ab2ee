"""The releases of a private trainer, recorded in the ledger of its data set."""

from __future__ import annotations

from collections.abc import Collection

from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.release import is_recorded_release, record_release
from fedhealth.privacy.context import AccountingContext


class ReleaseRecords:
    """Record what leaves the site.

    Attributes:
        budget: of the data set.

    """

    budget: PrivacyBudget

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
