"""The history of a run as a site knows it: the opened sums, and which of its own rounds they contain.

What a round leaves at the site (local layers, the memory of a method) is stored under the name of the round's vector.
It counts only in a history with a link of this vector. So rounds that are never opened leave nothing behind, and a lead
that goes back to an older checkpoint finds the arrays of that time, or a refusal if they are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhealth.secagg.client.vector_rules import digest_input
from fedhealth.secagg.protocol.history import RULE, HistoryLink
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.rules import lead_must
from fedhealth.utils.atomic_io import write_atomic

_FILE = "history.json"


@dataclass(frozen=True)
class KnownLink:
    """A verified link.

    Attributes:
        before: the history before it.
        repetition: of the vector that its sum contains.
        source: digest of what the vector was computed from.
        next_digest: SHA-256 of the arrays of the next request.

    """

    before: str
    repetition: int
    source: str
    next_digest: str


class HistoryBook:
    """The verified links of one run, on the disk.

    Args:
        folder: the site's folder of the run.
        start: H_0 as this site computes it.
        initial_digest: SHA-256 of the initial shared arrays of the model.

    """

    def __init__(self, folder: Path, start: bytes, initial_digest: bytes) -> None:
        self._path, self._start, self._initial = folder / _FILE, start.hex(), initial_digest.hex()
        self._links = self._load()

    def extend(self, links: Sequence[HistoryLink]) -> None:
        """Add links that are verified and follow from known ones; on return they are on the disk."""
        before = len(self._links)
        for link in links:
            descriptor = link.descriptor
            if self._is_known(descriptor.history.hex()) and descriptor.vector.purpose == "train":
                source = digest_input(descriptor).hex()
                known = KnownLink(
                    descriptor.history.hex(), descriptor.vector.repetition, source, link.next_digest.hex()
                )
                self._links[link.head.hex()] = known
        if len(self._links) > before:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            content = {head: vars(link) for head, link in self._links.items()}
            write_atomic(self._path, json.dumps(content).encode())

    def is_start(self, head: bytes) -> bool:
        """Return whether nothing was opened yet in a history."""
        return head.hex() == self._start

    def is_known(self, head: bytes) -> bool:
        """Return whether a history is known."""
        return self._is_known(head.hex())

    def check_request(self, descriptor: AttemptDescriptor, model_digest: bytes) -> None:
        """Check that a request follows from a known history, and brings the arrays that the history ends with.

        Args:
            descriptor: of the attempt.
            model_digest: SHA-256 of the arrays that arrived; at the start, of the model's shared arrays only.

        """
        head = descriptor.history.hex()
        lead_must(self._is_known(head), RULE, "the request follows from sums that this site has no proof of")
        expected = self._initial if head == self._start else self._links[head].next_digest
        lead_must(model_digest.hex() == expected, RULE, "the arrays are not those that the history ends with")

    def list_rounds(self, head: bytes) -> list[tuple[int, str]]:
        """Return (repetition, source) of the vectors in a history, newest first."""
        found, at = [], head.hex()
        while (link := self._links.get(at)) is not None:
            found.append((link.repetition, link.source))
            at = link.before
        return found

    def list_opened(self) -> set[int]:
        """Return the repetitions of all vectors that are known to be in an opened sum."""
        return {link.repetition for link in self._links.values()}

    def _is_known(self, head: str) -> bool:
        return head == self._start or head in self._links

    def _load(self) -> dict[str, KnownLink]:
        if not self._path.is_file():
            return {}
        return {head: KnownLink(**link) for head, link in json.loads(self._path.read_bytes()).items()}
