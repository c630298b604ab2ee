"""Tie every private reply to one booked event: its words are recorded in the privacy ledger before they leave.

The order is always: book, train, words durable, release recorded, reply. The words are the update and the statistics
before quantization and masking. The same words may be sent again; other words need a booking of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.release import digest_words, load_release_key
from fedhealth.privacy.context import AccountingContext
from fedhealth.site.egress_gate import ReleaseReceipt
from fedhealth.training.trainer import Trainer
from fedhealth.types import State


@dataclass(frozen=True)
class Release:
    """The words of one reply, as the privacy ledger names them.

    Attributes:
        digest: keyed digest of the words; empty if they hold nothing that the ledger records.
        late_rounds: earlier rounds whose words are part of these.

    """

    digest: str = ""
    late_rounds: tuple[int, ...] = ()

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(content: str) -> Release:
        """Parse what `dumps` returned."""
        fields = json.loads(content)
        return Release(str(fields["digest"]), tuple(map(int, fields["late_rounds"])))


class ReleaseRecorder:
    """Record the releases of one site in one run, for one purpose.

    Args:
        trainer: records in its ledger; without differential privacy there is nothing to record.
        accounting: the run, round and purpose.

    """

    def __init__(self, trainer: Trainer, accounting: AccountingContext) -> None:
        self._trainer, self._accounting = trainer, accounting

    @property
    def is_private(self) -> bool:
        """Whether the words are noised and recorded."""
        return self._trainer.is_private

    def identify(
        self, update: State, statistics: Mapping[str, np.ndarray], late_rounds: tuple[int, ...] = ()
    ) -> Release:
        """Return the release of these words."""
        if not self._trainer.is_private or not (update or statistics):
            return Release()
        return Release(digest_words(load_release_key(self._accounting.folder), update, statistics), late_rounds)

    def record(self, release: Release) -> None:
        """Record that these words may leave from now on; on return the record is on the disk.

        Raises:
            PrivacyError: there is no open booking for them, or the ledger is damaged or in use.

        """
        if release.digest:
            self._trainer.record_release(self._accounting, release.digest, release.late_rounds)

    def is_recorded(self, digest: str) -> bool:
        """Return whether the words with this digest are recorded, or need no record."""
        if not self._trainer.is_private:
            return True
        return bool(digest) and self._trainer.is_recorded_release(self._accounting, digest)

    def confirm(self, release: Release) -> bool:
        """Return whether stored words may leave; a crash between words and record is made good here."""
        if not release.digest or self.is_recorded(release.digest):
            return True
        try:
            self.record(release)
        except PrivacyError:
            return False
        return True

    def make_receipt(self, release: Release) -> ReleaseReceipt:
        """Return what the egress gate asks for."""
        return ReleaseReceipt(release.digest, lambda: self.is_recorded(release.digest))
