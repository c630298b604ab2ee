"""The history of a run at the lead: the links of its opened sums, on the disk."""

from __future__ import annotations

from dataclasses import replace

from fedhealth.errors import FederationError
from fedhealth.secagg.protocol.history import HistoryLink, compute_history_start
from fedhealth.secagg.protocol.store import StateStore
from fedhealth.secagg.server.server_protocol import ServerParameters


class RunHistory:
    """The links of the opened sums, oldest first; they stay on the disk, and memory holds their heads.

    Args:
        store: durable.
        lead: run, roster and configuration.
        initial_digest: SHA-256 of the model's shared arrays before training.

    """

    def __init__(self, store: StateStore, lead: ServerParameters, initial_digest: bytes) -> None:
        self._store = store
        self._heads = [compute_history_start(lead.run, lead.config_digest, lead.roster, initial_digest)]
        self._shown: int | None = None
        while (data := store.get(_name_link(self._length))) is not None:
            self._heads.append(HistoryLink.from_bytes(data).head)

    @property
    def head(self) -> bytes:
        """The history after the newest link that is shown."""
        return self._heads[self._length if self._shown is None else self._shown]

    def append(self, link: HistoryLink, next_digest: bytes) -> None:
        """Store a link; on return it is on the disk."""
        finished = replace(link, next_digest=next_digest)
        self._store.put(_name_link(self._length), finished.to_bytes())
        self._heads.append(finished.head)

    def look_back(self, head: bytes) -> None:
        """Show the links up to a head only; the others stay on the disk, and a restart shows them again."""
        self._shown = self._find_place(head)

    def go_back(self, head: bytes) -> None:
        """Forget the links after a head; an empty one is the start.

        Raises:
            FederationError: no link leads to it.

        """
        place = self._find_place(head)
        while self._length > place:
            self._store.delete(_name_link(self._length - 1))
            self._heads.pop()

    def list_links(self, newest: int | None = None) -> list[bytes]:
        """Return the encoded links that are shown, all or some of the newest.

        Raises:
            FederationError: one is no longer on the disk.

        """
        end = self._length if self._shown is None else self._shown
        return [self._read(number) for number in range(0 if newest is None else max(0, end - newest), end)]

    @property
    def _length(self) -> int:
        return len(self._heads) - 1

    def _find_place(self, head: bytes) -> int:
        """Return how many links lead to a head."""
        if head and head not in self._heads:
            raise FederationError(
                "The history of secure aggregation does not lead to the checkpoint.", "Restore the run's whole folder."
            )
        return self._heads.index(head) if head else 0

    def _read(self, number: int) -> bytes:
        data = self._store.get(_name_link(number))
        if data is None:
            raise FederationError(
                f"Link {number + 1} of the history of secure aggregation is gone.", "Restore the run's whole folder."
            )
        return data


def _name_link(number: int) -> str:
    return f"link-{number:05d}"
