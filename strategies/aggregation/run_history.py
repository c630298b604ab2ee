"""The history of a run at the lead: the links of its opened sums, on the disk."""

from __future__ import annotations

from dataclasses import replace

from fedhealth.errors import FederationError
from fedhealth.secagg.protocol.history import HistoryLink, compute_history_start
from fedhealth.secagg.protocol.store import StateStore
from fedhealth.secagg.server.server_protocol import ServerParameters


class RunHistory:
    """The links of the opened sums, oldest first.

    Args:
        store: durable.
        lead: run, roster and configuration.
        initial_digest: SHA-256 of the model's shared arrays before training.

    """

    def __init__(self, store: StateStore, lead: ServerParameters, initial_digest: bytes) -> None:
        self._store = store
        self._start = compute_history_start(lead.run, lead.config_digest, lead.roster, initial_digest)
        self._links: list[HistoryLink] = []
        while (data := store.get(_name_link(len(self._links)))) is not None:
            self._links.append(HistoryLink.from_bytes(data))

    @property
    def head(self) -> bytes:
        """The history after the newest link."""
        return self._links[-1].head if self._links else self._start

    def append(self, link: HistoryLink, next_digest: bytes) -> None:
        """Store a link; on return it is on the disk."""
        finished = replace(link, next_digest=next_digest)
        self._store.put(_name_link(len(self._links)), finished.to_bytes())
        self._links.append(finished)

    def go_back(self, head: bytes) -> None:
        """Forget the links after a head; an empty one is the start.

        Raises:
            FederationError: no link leads to it.

        """
        head = head or self._start
        heads = [self._start, *(link.head for link in self._links)]
        if head not in heads:
            raise FederationError(
                "The history of secure aggregation does not lead to the checkpoint.", "Restore the run's whole folder."
            )
        while self.head != head:
            self._store.delete(_name_link(len(self._links) - 1))
            self._links.pop()

    def list_links(self, newest: int | None = None) -> list[bytes]:
        """Return the encoded links, all or some of the newest."""
        chosen = self._links if newest is None else self._links[-newest:]
        return [link.to_bytes() for link in chosen]


def _name_link(number: int) -> str:
    return f"link-{number:05d}"
