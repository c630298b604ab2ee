"""The rule R11: what a site sends more than once may be in several opened sums, but the sums must not single it out.

Two kinds of vectors are sent more than once: releases that are drawn once and kept (statistics, final scores), and, in
runs without privacy, everything that follows from the data alone. If such a vector is in two sums with other
contributors, their difference is a sum over fewer sites, at worst over one.

Kept releases: group the members by which opened sums they are in, the new one included. Every combination of the sums
is a combination of sums over whole groups, so each group must have as many members as a sum needs. Without privacy, the
first sum fixes the contributors.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.rules import lead_must
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name

CONTRIBUTORS_FOLDER = "secagg-contributors"
"""Below a site's private folder; it outlives runs."""
_INCOMPLETE = "incomplete"


class ContributorBook:
    """The opened sums that hold a site's kept releases, for all runs of the site.

    Args:
        store: durable.

    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def record_upload(self, release: str, vector: str) -> None:
        """Record that a kept release is uploaded as a vector; raises `ProtocolViolationError` if it must not be.

        A sum of an earlier vector of the same release may have opened without this site's answer. The site then does
        not know who is in it, so it cannot check the groups.
        """
        uploaded, sums = self._load(release)
        is_known = uploaded in ("", vector) or uploaded in sums
        lead_must(is_known, "R11", "this release may be in an opened sum whose contributors are not known here")
        self._save(release, vector, sums)

    def check_groups(self, release: str, vector: str, survivors: Sequence[str], least: int) -> None:
        """Check that a sum with a kept release forms no group of fewer than `least` members with the earlier sums."""
        others = [sites for name, sites in self._load(release)[1].items() if name != vector]
        group = find_smallest_group([*others, survivors])
        lead_must(not others or len(group) >= least, "R11", f"the sums would single out {len(group)} members")

    def record_sum(self, release: str, vector: str, survivors: Sequence[str]) -> None:
        """Record that the sum of a vector with a kept release is about to be opened; it is on the disk on return."""
        uploaded, sums = self._load(release)
        self._save(release, uploaded, {**sums, vector: list(survivors)})

    def check_same_contributors(self, data: str, survivors: Sequence[str]) -> None:
        """Check that a sum about some data has the contributors of the first one."""
        first = self._load(data)[1].get("")
        is_known = first is not None or self._store.get(_INCOMPLETE) is None
        lead_must(is_known, "R11", "sums from before this site's recovery may have had other contributors")
        lead_must(first in (None, list(survivors)), "R11", "sums without privacy must keep their contributors")

    def record_contributors(self, data: str, survivors: Sequence[str]) -> None:
        """Record the contributors of the first sum about some data; on return they are on the disk."""
        if not self._load(data)[1]:
            self._save(data, "", {"": list(survivors)})

    def mark_incomplete(self) -> None:
        """Note that first sums may be missing here: this machine may have been restored from an older copy.

        Data without a first sum in the book are then in no sum until a person allows one (`limits.changing_cohorts`).
        """
        self._store.put(_INCOMPLETE, b"1")

    def _load(self, key: str) -> tuple[str, dict[str, list[str]]]:
        """Return the vector that was uploaded last, and the contributors of the opened sums by vector."""
        data = self._store.get(build_hashed_name("release", key))
        if data is None:
            return "", {}
        try:
            found = json.loads(data)
            return str(found["uploaded"]), {str(vector): list(sites) for vector, sites in found["sums"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):  # nothing about its contributors is known any more
            advice = "Restore the site's folder, then `fedhealth site recover`."
            raise ProtocolViolationError(f"{CONTRIBUTORS_FOLDER} is damaged", advice, rule="R11") from None

    def _save(self, key: str, uploaded: str, sums: dict[str, list[str]]) -> None:
        content = json.dumps({"uploaded": uploaded, "sums": sums}, sort_keys=True)
        self._store.put(build_hashed_name("release", key), content.encode())


def find_smallest_group(sums: Sequence[Collection[str]]) -> frozenset[str]:
    """Return the smallest set of sites that are in the same sums, of all sites that are in any."""
    groups: dict[tuple[bool, ...], set[str]] = {}
    for site in {site for sites in sums for site in sites}:
        groups.setdefault(tuple(site in sites for sites in sums), set()).add(site)
    return frozenset(sorted(groups.values(), key=_count_sites)[0]) if groups else frozenset()


def _count_sites(group: set[str]) -> int:
    return len(group)
