"""What a site's stored words are, and whether their sum may be opened with these contributors.

The rule itself is in `fedhealth.secagg.client.contributor_book`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from clients.context import RunContext
from clients.release import Release
from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER, ContributorBook
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.rules import lead_must
from fedhealth.secagg.protocol.store import FileStore, StateStore

_UPLOAD = "kept-for"
_DATA, _RELEASE, _UNIQUE = "data", "release", ""


@dataclass(frozen=True)
class KeptUpload:
    """The stored words of a site.

    Attributes:
        vector: digest of the name of the vector that they are; empty if there are none.
        release: as the privacy ledger names them.
        repeated: what else is sent that holds the same values: `data:...` without privacy, `release:...` for words that
            are drawn once and kept; empty for words that are drawn for one vector only.

    """

    vector: str = ""
    release: Release = field(default_factory=Release)
    repeated: str = _UNIQUE


def name_repeated_words(run: RunContext, purpose: str, release: Release, is_private: bool) -> str:
    """Return which values the words share with other vectors, see `KeptUpload.repeated`."""
    if not is_private:
        return f"{_DATA}:{run.data}"
    return f"{_RELEASE}:{release.digest}" if purpose != "train" and release.digest else _UNIQUE


def save_upload(secrets: StateStore, upload: KeptUpload) -> None:
    """Store what the stored words are."""
    secrets.put(_UPLOAD, json.dumps([upload.vector, upload.release.dumps(), upload.repeated]).encode())


def load_upload(secrets: StateStore) -> KeptUpload:
    """Return what the stored words are."""
    found = secrets.get(_UPLOAD)
    if found is None:
        return KeptUpload()
    vector, release, repeated = json.loads(found)
    return KeptUpload(vector, Release.loads(release), repeated)


def delete_upload(secrets: StateStore) -> None:
    """Forget what the stored words are: they then belong to no vector."""
    secrets.delete(_UPLOAD)


def open_contributor_book(run: RunContext) -> ContributorBook:
    """Return the site's book of contributors; it outlives runs."""
    return ContributorBook(FileStore(run.site.folder / CONTRIBUTORS_FOLDER))


class ContributorRule:
    """Check the contributors of a sum before this site helps to open it.

    Args:
        run: site and run.
        upload: the stored words.

    """

    def __init__(self, run: RunContext, upload: KeptUpload) -> None:
        self._run, self._upload = run, upload
        self._book = open_contributor_book(run)

    def check_sum(self, context: AttemptContext, survivors: Sequence[str]) -> None:
        """Return if the sum may be opened; raise `ProtocolViolationError` if it may not."""
        upload, descriptor = self._upload, context.descriptor
        is_current = upload.vector == descriptor.vector_digest.hex()
        lead_must(is_current, "R11", "this site no longer knows what it has uploaded")
        is_data = upload.repeated.startswith(_DATA)
        if upload.repeated == _UNIQUE or (is_data and self._run.site.limits.changing_cohorts):
            return
        if is_data:
            self._book.require_complete(upload.repeated)
        self._book.check_contributors(upload.repeated, upload.vector, survivors)

    def record_sum(self, context: AttemptContext, survivors: Sequence[str]) -> None:
        """Check the sum and record it; on return it is on the disk."""
        self.check_sum(context, survivors)
        if self._upload.repeated != _UNIQUE:
            self._book.record_contributors(self._upload.repeated, self._upload.vector, survivors)
