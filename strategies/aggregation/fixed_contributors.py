"""Which sites the lead asks for words that they have sent before: those of the first sum, once others were refused.

A site keeps the contributors of the first sum that it has helped to open (rule R11 of docs/secure-aggregation.md), also
if that sum could not be opened in the end, because others were restarted. If the lead then asked everybody, some would
refuse, and the others would be bound to another list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fedhealth.protocol.messages import DATA_KINDS, TRAIN
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name

_ALL_KINDS = "all"


@dataclass(frozen=True)
class _FirstSum:
    """The first sum of some words whose unmasking was requested.

    Attributes:
        vector: the name of its vector.
        sites: its contributors; empty if there is none yet.
        is_binding: whether a sum could not be opened because of it, so that only these sites are asked.

    """

    vector: str = ""
    sites: tuple[str, ...] = ()
    is_binding: bool = False


class FixedContributors:
    """The first contributors of one run, on the disk.

    Args:
        store: durable.
        is_private: whether every update is drawn anew; then only the other kinds of requests repeat words.

    """

    def __init__(self, store: StateStore, *, is_private: bool) -> None:
        self._store, self._is_private = store, is_private

    def choose_sites(self, kind: str, sites: Sequence[str]) -> tuple[str, ...]:
        """Return which of these sites to ask."""
        first = self._load(kind)
        return tuple(site for site in sites if not first.is_binding or site in first.sites)

    def record_sum(self, kind: str, vector: str, survivors: Sequence[str]) -> None:
        """Record, before a sum's unmasking is requested, who is in it; another list of a vector replaces the first."""
        first = self._load(kind)
        if self._repeats(kind) and first.vector in ("", vector):
            self._save(kind, _FirstSum(vector, tuple(survivors), first.is_binding))

    def record_failure(self, kind: str, survivors: Sequence[str], *, is_abandoned: bool) -> None:
        """Record that a sum could not be opened; one that is abandoned binds nobody to its own list."""
        first = self._load(kind)
        if first.sites and not (is_abandoned and first.sites == tuple(survivors)):
            self._save(kind, _FirstSum(first.vector, first.sites, is_binding=True))

    def _repeats(self, kind: str) -> bool:
        return kind in DATA_KINDS and not (self._is_private and kind == TRAIN)

    def _load(self, kind: str) -> _FirstSum:
        data = self._store.get(self._name(kind)) if self._repeats(kind) else None
        if data is None:
            return _FirstSum()
        found = json.loads(data)
        return _FirstSum(found["vector"], tuple(found["sites"]), found["is_binding"])

    def _save(self, kind: str, first: _FirstSum) -> None:
        self._store.put(self._name(kind), json.dumps(asdict(first)).encode())

    def _name(self, kind: str) -> str:
        return build_hashed_name("contributors", kind if self._is_private else _ALL_KINDS)
