"""The rule R11: what a site sends more than once is in sums with the same contributors only.

Two kinds of vectors are sent more than once: releases that are drawn once and kept (statistics, final scores), and, in
runs without privacy, everything that follows from the data alone. If such a vector is in two sums with other
contributors, their difference is a sum over fewer sites, at worst over one.

The first sum that a site helps to open fixes the contributors. Two sums that opened share an honest site that helped to
open both (2t > N + c), so it is enough that every site compares with what it has answered itself: a site that was not
asked about a sum need not know who is in it, and may send its words again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.rules import lead_must
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name

CONTRIBUTORS_FOLDER = "secagg-contributors"
"""Below a site's private folder; it outlives runs."""
_INCOMPLETE = "incomplete"


class ContributorBook:
    """The contributors of the sums that hold what a site sends more than once, for all runs of the site.

    Args:
        store: durable.

    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def check_contributors(self, words: str, vector: str, survivors: Sequence[str]) -> None:
        """Check that a sum has the contributors of the first one that this site has answered for.

        The list of the same vector may be another one: R10 has checked the proof that the first can never open.

        Args:
            words: what is sent more than once.
            vector: that holds it this time.
            survivors: the contributors of the sum.

        """
        first, fixed = self._load(words)
        is_same = first == vector or not fixed or fixed == list(survivors)
        lead_must(is_same, "R11", "what is sent again must keep its contributors")

    def require_complete(self, words: str) -> None:
        """Check that a first sum about some words cannot be missing here; see `mark_incomplete`."""
        is_known = self._load(words)[1] or self._store.get(_INCOMPLETE) is None
        lead_must(bool(is_known), "R11", "sums from before this site's recovery may have had other contributors")

    def record_contributors(self, words: str, vector: str, survivors: Sequence[str]) -> None:
        """Record the contributors of the first sum; on return they are on the disk."""
        first, fixed = self._load(words)
        if not fixed or first == vector:
            content = json.dumps({"vector": vector, "contributors": list(survivors)})
            self._store.put(build_hashed_name("words", words), content.encode())

    def mark_incomplete(self) -> None:
        """Note that first sums may be missing here: this machine may have been restored from an older copy.

        Data without a first sum in the book are then in no sum until a person allows one (`limits.changing_cohorts`).
        """
        self._store.put(_INCOMPLETE, b"1")

    def _load(self, words: str) -> tuple[str, list[str]]:
        """Return the vector of the first sum and its contributors."""
        data = self._store.get(build_hashed_name("words", words))
        if data is None:
            return "", []
        try:
            found = json.loads(data)
            return str(found["vector"]), list(map(str, found["contributors"]))
        except (ValueError, TypeError, KeyError):  # nothing about its contributors is known any more
            advice = "Restore the site's folder, then `fedhealth site recover`."
            raise ProtocolViolationError(f"{CONTRIBUTORS_FOLDER} is damaged", advice, rule="R11") from None
