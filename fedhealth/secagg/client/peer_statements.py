"""The statements of other sites that a site keeps, to show them to their owners again.

The rule: a statement is dropped only when one that is kept instead lists it, so what a restored site has forgotten is
shown to it until it has been accounted for. There is room for `MAX_SHOWN` of each site. One more is not kept, and none
is forgotten for it: the caller then refuses the exchange that it came with.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.protocol.statement import (
    MAX_SHOWN,
    ShownNames,
    StateStatement,
    digest_statement,
    is_genuine_statement,
)
from fedhealth.secagg.protocol.store import StateStore

_PEERS = "peers"


class PeerStatements:
    """What a site keeps of the others; the caller holds the store's lock.

    Args:
        store: durable.
        roster: the approved members.

    """

    def __init__(self, store: StateStore, roster: Roster) -> None:
        self._store, self._roster = store, roster
        self._parsed: tuple[bytes | None, Mapping[str, tuple[bytes, ...]]] = (None, {})

    def keep_statements(self, found: Mapping[bytes, StateStatement]) -> tuple[str, ...]:
        """Keep verified statements, in one write; return the sites for whose statements there was no room."""
        before, full = self._load(), []
        peers = dict(before)
        for data, each in sorted(found.items(), key=lambda item: item[1].counter):
            showable = self._select_genuine(peers.get(each.site, ()))  # without those of an earlier key
            kept = _add_statement(showable, data, each)
            if kept is None:
                full.append(each.site)
            else:
                peers[each.site] = tuple(kept)
        if peers != before:
            encoded = {site: [data.hex() for data in kept] for site, kept in peers.items()}
            self._store.put(_PEERS, json.dumps(encoded).encode())
        return tuple(dict.fromkeys(full))

    def select_news(self, found: Mapping[bytes, StateStatement]) -> dict[bytes, StateStatement]:
        """Return those with a higher number than all that are kept of their site: others may be replays of old ones."""
        highest = {site: max(_decode_kept(data).counter for data in kept) for site, kept in self._load().items()}
        return {data: each for data, each in found.items() if each.counter > highest.get(each.site, 0)}

    def load_kept(self) -> dict[str, tuple[bytes, ...]]:
        """Return the kept statements that are signed with their site's key of today, by site, sorted."""
        kept = {site: tuple(self._select_genuine(found)) for site, found in sorted(self._load().items())}
        return {site: found for site, found in kept.items() if found}

    def name_kept(self) -> ShownNames:
        """Return the digests of the kept statements of every site, sorted."""
        return tuple((site, tuple(map(digest_statement, found))) for site, found in self.load_kept().items())

    def list_all(self) -> tuple[bytes, ...]:
        """Return the kept statements of every site."""
        return tuple(data for found in self.load_kept().values() for data in found)

    def _select_genuine(self, kept: Iterable[bytes]) -> list[bytes]:
        return [data for data in kept if is_genuine_statement(data, self._roster)]

    def _load(self) -> Mapping[str, tuple[bytes, ...]]:
        """Return what is on the disk; the same bytes are parsed once."""
        data = self._store.get(_PEERS)
        if data != self._parsed[0]:
            stored: dict[str, list[str]] = json.loads(data) if data else {}
            self._parsed = data, {site: tuple(map(bytes.fromhex, kept)) for site, kept in stored.items()}
        return self._parsed[1]


def _add_statement(kept: Sequence[bytes], data: bytes, found: StateStatement) -> list[bytes] | None:
    """Return the statements of a site to keep, the new one last; None if there is no room for it."""
    name = digest_statement(data)
    if data in kept or any(name in _decode_kept(each).known for each in kept):
        return list(kept)
    unlisted = [each for each in kept if digest_statement(each) not in found.known]
    return [*unlisted, data] if len(unlisted) < MAX_SHOWN else None


def _decode_kept(data: bytes) -> StateStatement:
    return StateStatement.from_bytes(data, "this site's own disk")
