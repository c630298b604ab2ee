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
        self._shown: int | None = None
        while (data := store.get(_name_link(len(self._links)))) is not None:
            self._links.append(HistoryLink.from_bytes(data))

    @property
    def head(self) -> bytes:
        """The history after the newest link that is shown."""
        shown = self._links[: self._shown]
        return shown[-1].head if shown else self._start

    def append(self, link: HistoryLink, next_digest: bytes) -> None:
        """Store a link; on return it is on the disk."""
        finished = replace(link, next_digest=next_digest)
        self._store.put(_name_link(len(self._links)), finished.to_bytes())
        self._links.append(finished)

    def look_back(self, head: bytes) -> None:
        """Show the links up to a head only; the others stay on the disk, and a restart shows them again."""
        self._shown = self._find_place(head)

    def go_back(self, head: bytes) -> None:
        """Forget the links after a head; an empty one is the start.

        Raises:
            FederationError: no link leads to it.

        """
        place = self._find_place(head)
        while len(self._links) > place:
            self._store.delete(_name_link(len(self._links) - 1))
            self._links.pop()

    def _find_place(self, head: bytes) -> int:
        """Return how many links lead to a head."""
        heads = [self._start, *(link.head for link in self._links)]
        if (head or self._start) not in heads:
            raise FederationError(
                "The history of secure aggregation does not lead to the checkpoint.", "Restore the run's whole folder."
            )
        return heads.index(head or self._start)

    def list_links(self, newest: int | None = None) -> list[bytes]:
        """Return the encoded links that are shown, all or some of the newest."""
        shown = self._links[: self._shown]
        return [link.to_bytes() for link in (shown if newest is None else shown[-newest:])]


def _name_link(number: int) -> str:
    return f"link-{number:05d}"
