"""Thresholds: how many sites must stay, how many may collude, and when the survivors must sign their list.

R sites are approved members, N of them members of the run. c of them collude with the lead, wherever they are; t shares
open a secret. c follows from R and t from N, so both are the same for every base cohort and every attempt:

    t = max(floor(2N/3) + 1, floor((N + c)/2) + 1, c + min_honest, min_sites)

2t > N + c: two sets of t answers to two questions about one vector share an honest site, which answers only one of them
(Bonawitz et al. 2017, section 6.2, for one cohort). If t followed from the base cohort, both questions could be opened.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest

from fedhealth.secagg.errors import ProtocolViolationError


@dataclass(frozen=True)
class ThresholdPolicy:
    """The minimum thresholds of one party; None takes the default for the number of approved members.

    Args:
        colluders: sites assumed to collude with the lead, (R - 1) // 3 by default.
        min_honest: honest contributions that must hide each other, 3 by default (2 up to five members).
        min_sites: smallest sum this party takes part in.
        max_exchanges: last exchange number of the run.
        max_rounds_per_model: exchanges in which the same incoming model is accepted.

    """

    colluders: int | None = None
    min_honest: int | None = None
    min_sites: int = 3
    max_exchanges: int = 10_000
    max_rounds_per_model: int = 3

    def resolve(self, approved: int) -> "ThresholdPolicy":
        """Return the policy with its defaults filled in for this number of approved members."""
        colluders = (approved - 1) // 3 if self.colluders is None else self.colluders
        min_honest = (2 if approved <= 5 else 3) if self.min_honest is None else self.min_honest
        return replace(self, colluders=colluders, min_honest=min_honest)

    def combine(self, other: "ThresholdPolicy", approved: int) -> "ThresholdPolicy":
        """Return the stricter of two policies in every number."""
        one, two = self.resolve(approved), other.resolve(approved)
        return ThresholdPolicy(
            colluders=max(one.colluders or 0, two.colluders or 0),
            min_honest=max(one.min_honest or 0, two.min_honest or 0),
            min_sites=max(one.min_sites, two.min_sites),
            max_exchanges=min(one.max_exchanges, two.max_exchanges),
            max_rounds_per_model=min(one.max_rounds_per_model, two.max_rounds_per_model),
        )


@dataclass(frozen=True)
class Thresholds:
    """The numbers computed from the members and a policy."""

    n: int
    colluders: int
    min_honest: int
    threshold: int
    min_sites: int = 1

    @property
    def min_owners(self) -> int:
        """Owners that every segment needs among the survivors before its sum may be opened."""
        return max(self.colluders + self.min_honest, self.min_sites)


def compute_thresholds(members: int, policy: ThresholdPolicy, approved: int | None = None) -> Thresholds:
    """Compute t; `ProtocolViolationError` when the members are too few for the policy.

    Args:
        members: of the run (N).
        policy: the minimum thresholds.
        approved: members of the roster (R); None if all of them are members of the run.

    """
    whole = members if approved is None else approved
    if not members <= whole:
        raise ProtocolViolationError(f"the run has {members} members, the roster {whole}", rule="R8")
    resolved = policy.resolve(whole)
    c, honest, least = resolved.colluders or 0, resolved.min_honest or 0, resolved.min_sites
    if c < 0 or honest < 1 or least < 1:
        raise ProtocolViolationError(
            f"colluders={c}, min_honest={honest}, min_sites={least} are out of range",
            "colluders must be at least 0, min_honest and min_sites at least 1.",
            rule="R8",
        )
    t = max(2 * members // 3 + 1, (members + c) // 2 + 1, c + honest, least)
    if t > members:
        raise ProtocolViolationError(
            f"{members} sites are too few for secure aggregation with {c} colluding and a threshold of {t}",
            "Invite more sites, or relax the policy (colluders, min_honest, min_sites).",
            rule="R8",
        )
    return Thresholds(members, c, honest, t, least)


def compute_smallest_split(n: int, t: int, c: int) -> int:
    """Return s*, the fewest honest sites whose sum a lead can open by telling survivors different lists.

    n sites are in the attempt, h = n - c of them honest. To cut s of them out, each of the h - s others must be missing
    from the lists of t - c honest sites. A list leaves out at most n - t sites and never its reader, so s readers spend
    up to min(n-t, h-s) omissions each and the others up to min(n-t, h-s-1).
    """
    h = n - c
    return _compute_smallest_cut(members=h, others=0, omissions=n - t, needed=t - c)


def compute_smallest_tower_split(thresholds: Thresholds, cohort: int, owners: int) -> int:
    """Return s* among the owners of one tower.

    A list may leave out owners only as long as min_owners of them stay. But the sites that do not own the tower
    answer too, and may leave out any of its owners: a tower is easier to split than the whole cohort. The colluders
    are taken to sit where they help the lead most.
    """
    t, c = thresholds.threshold, thresholds.colluders
    omissions = min(cohort - t, owners - thresholds.min_owners)
    cuts = []
    for colluding_owners in range(max(0, c - (cohort - owners)), min(c, owners - 1) + 1):
        members = owners - colluding_owners
        cuts.append(_compute_smallest_cut(members, cohort - c - members, omissions, t - c))
    return min(cuts)


def _compute_smallest_cut(members: int, others: int, omissions: int, needed: int) -> int:
    """Find the smallest s for which the readers' omissions can cover the members - s that must be missing."""
    for s in range(1, members):
        rest = members - s
        spent = (s + others) * min(omissions, rest) + rest * min(omissions, rest - 1)
        if spent >= rest * needed:
            return s
    return members


def needs_signatures(
    thresholds: Thresholds, cohort: int, tower_owners: tuple[int, ...], shares: tuple[int, ...] = ()
) -> bool:
    """Return whether split lists could open too few honest sites without the [SIGN] step.

    Args:
        thresholds: with the threshold of the attempt.
        cohort: sites of the attempt.
        tower_owners: owners of each segment among them.
        shares: honest sites that the noise of each segment counts on; 0 for a segment without noise.

    """
    whole = compute_smallest_split(cohort, thresholds.threshold, thresholds.colluders)
    for owners, counted in zip_longest(tower_owners, shares, fillvalue=0):
        cut = compute_smallest_tower_split(thresholds, cohort, owners) if 0 < owners < cohort else whole
        if cut < max(thresholds.min_honest, counted):
            return True
    return whole < thresholds.min_honest
