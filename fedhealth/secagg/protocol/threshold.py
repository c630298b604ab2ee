"""Thresholds: how many sites must stay, how many may collude, and when the survivors must sign their list.

n sites in the base cohort, c of them colluding with the lead, h = n - c honest, t shares open a secret.
"""

from dataclasses import dataclass

from fedhealth.secagg.errors import ProtocolViolationError


@dataclass(frozen=True)
class ThresholdPolicy:
    """The minimum thresholds of one site; None takes the default for the cohort's size.

    Args:
        colluders: sites assumed to collude with the lead, (n - 1) // 3 by default.
        min_honest: honest contributions that must hide each other, 3 by default (2 up to five sites).
        min_sites: smallest sum this site takes part in.
        max_exchanges: last exchange number of the run.
        max_rounds_per_model: exchanges in which the same incoming model is accepted.

    """

    colluders: int | None = None
    min_honest: int | None = None
    min_sites: int = 3
    max_exchanges: int = 10_000
    max_rounds_per_model: int = 3


@dataclass(frozen=True)
class Thresholds:
    """The numbers computed from n and a policy."""

    n: int
    colluders: int
    min_honest: int
    threshold: int

    @property
    def min_owners(self) -> int:
        """Owners a tower needs among the survivors before its sum may be opened."""
        return self.colluders + self.min_honest


def compute_thresholds(n: int, policy: ThresholdPolicy) -> Thresholds:
    """Compute t; `ProtocolViolationError` when the cohort is too small for the policy.

    More than two thirds must answer; two sets of t answers share an honest site (2t > n + c); t leaves min_honest
    sites once the colluders are taken away.
    """
    c = (n - 1) // 3 if policy.colluders is None else policy.colluders
    honest = (2 if n <= 5 else 3) if policy.min_honest is None else policy.min_honest
    t = max(2 * n // 3 + 1, (n + c) // 2 + 1, c + honest, policy.min_sites)
    if t > n:
        raise ProtocolViolationError(
            f"{n} sites are too few for secure aggregation with {c} colluding and a threshold of {t}",
            "Invite more sites, or relax the policy (colluders, min_honest, min_sites).",
            rule="R8",
        )
    return Thresholds(n, c, honest, t)


def compute_smallest_split(n: int, t: int, c: int) -> int:
    """Return s*, the fewest honest sites whose sum a lead can open by telling survivors different lists.

    To cut s sites out of h, each of the h - s others must be missing from the lists of t - c honest sites. A list
    leaves out at most n - t sites and never its reader, so s readers spend up to min(n-t, h-s) omissions each and
    the others up to min(n-t, h-s-1).
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


def needs_signatures(thresholds: Thresholds, cohort: int, tower_owners: tuple[int, ...]) -> bool:
    """Return whether split lists could open fewer than min_honest honest sites without the [SIGN] step.

    Args:
        thresholds: with the threshold of the attempt.
        cohort: sites of the attempt.
        tower_owners: owners of each segment among them.

    """
    cuts = [compute_smallest_split(cohort, thresholds.threshold, thresholds.colluders)]
    cuts += [compute_smallest_tower_split(thresholds, cohort, owners) for owners in tower_owners if owners < cohort]
    return min(cuts) < thresholds.min_honest
