"""The layout of a sum, derived: lead and sites build it alike from the configuration and the members' announcements.

A site never takes a bound, a share of clamped values or a length from a message: it compares the lead's layout with
its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.primitives.layout import (
    Layout,
    Segment,
    VectorSpec,
    make_model_segment,
    make_noised_segment,
    make_statistics_segment,
)
from fedhealth.secagg.primitives.noise_grid import LEAST_SHARES, count_honest_shares
from fedhealth.secagg.protocol.messages import KeyAnnouncement

STATISTICS_SEGMENT = "statistics"
NOISED_STATISTICS_SEGMENT = "noised_statistics"
STATISTICS_SEGMENTS = frozenset({STATISTICS_SEGMENT, NOISED_STATISTICS_SEGMENT})
_STATISTICS_BITS = 64
_LEAST_ROOM = 20  # of one site's sum before it is clamped, in clipping bounds
STATISTICS_BOUND = 2.0**50  # of one site's count or fixed-point sum; hundreds of sites stay far below 2^62


@dataclass(frozen=True)
class SharedNoise:
    """How the noise of sums is shared; the members announce its multipliers, of which the largest holds.

    Args:
        max_grad_norm: the clipping bound of one patient, in units of which the model's multiplier is.
        bits: word size of a model's values.
        colluders: sites that are assumed to collude with the lead: their shares do not count.
        min_owners: owners without which a segment is not opened.
        sensitivity: of the noised statistics, in units of which their multiplier is; 0 if there are none.

    """

    max_grad_norm: float
    bits: int
    colluders: int
    min_owners: int
    sensitivity: float = 0.0

    def make_segment(
        self, tower: str, layers: Mapping[str, int], members: Sequence[KeyAnnouncement], threshold: int
    ) -> Segment:
        """Return the segment of a tower; without members its size on the wire is right and the noise is not."""
        multiplier = max((member.noise for member in members), default=1.0)
        noise_std, shares = multiplier * self.max_grad_norm, self._count_shares(tower, members, threshold)
        sites = max(1, len(members))
        segment = make_noised_segment(
            tower, tower, layers, noise_std=noise_std, shares=shares, bits=self.bits, sites=sites
        )
        has_room = segment.entries[0].bound >= _LEAST_ROOM * self.max_grad_norm
        refuse_unless(has_room, f"words of {self.bits} bits clamp sums of {_LEAST_ROOM} patients; raise noise_bits")
        return segment

    def make_statistics_segment(
        self, tower: str, tables: Mapping[str, int], members: Sequence[KeyAnnouncement], threshold: int
    ) -> Segment:
        """Return the segment of the noised statistics, whose words have room for any count of patients."""
        multiplier = max((member.statistics_noise for member in members), default=1.0)
        noise_std, shares = multiplier * self.sensitivity, self._count_shares(tower, members, threshold)
        name, bits, sites = NOISED_STATISTICS_SEGMENT, _STATISTICS_BITS, max(1, len(members))
        return make_noised_segment(name, tower, tables, noise_std=noise_std, shares=shares, bits=bits, sites=sites)

    def _count_shares(self, tower: str, members: Sequence[KeyAnnouncement], threshold: int) -> int:
        owners = sum(any(name == tower for name, _ in member.towers) for member in members)
        honest = count_honest_shares(owners, len(members), threshold, self.colluders, self.min_owners)
        return honest if members else LEAST_SHARES


@dataclass(frozen=True)
class LayoutPlan:
    """What a layout is derived from, apart from the announcements.

    Args:
        towers: {tower: {layer: number of values}} of the update; empty if only statistics are summed.
        statistics: {name: number of values} of the statistics that are summed exactly.
        statistics_tower: the tower that every site announces.
        bits: word size of a model's values.
        bound: largest magnitude of one value in a site's update.
        clamp_share: largest share of a layer's values that may lie beyond it and be clamped.
        noise: how the sites share the noise of the sums; None if each adds its own.
        tables: {name: number of values} of the statistics whose noise they share.

    """

    towers: Mapping[str, Mapping[str, int]]
    statistics: Mapping[str, int]
    statistics_tower: str
    bits: int
    bound: float
    clamp_share: float
    noise: SharedNoise | None = None
    tables: Mapping[str, int] = field(default_factory=dict)

    def build(self, members: Sequence[KeyAnnouncement], threshold: int = 0) -> Layout:
        """Return a segment for each tower and those of the statistics, with room for the weights of these members.

        Without members the sizes on the wire are right and the headroom is not.

        Args:
            members: that have announced a key.
            threshold: answers that open a sum; for the shares of the noise.

        """
        sites = max(1, len(members))
        segments = [self._make_tower_segment(tower, members, threshold) for tower in sorted(self.towers)]
        if self.noise is not None and self.tables:
            tables, tower = dict(sorted(self.tables.items())), self.statistics_tower
            segments.append(self.noise.make_statistics_segment(tower, tables, members, threshold))
        sizes = sorted(self.statistics.items())
        if entries := tuple(VectorSpec(name, length, STATISTICS_BOUND, 1.0) for name, length in sizes):
            tower = self.statistics_tower
            segments.append(make_statistics_segment(STATISTICS_SEGMENT, tower, entries, sites=sites))
        return tuple(segments)

    def _make_tower_segment(self, tower: str, members: Sequence[KeyAnnouncement], threshold: int) -> Segment:
        if self.noise is not None:
            return self.noise.make_segment(tower, dict(sorted(self.towers[tower].items())), members, threshold)
        return make_model_segment(
            tower,
            tower,
            dict(sorted(self.towers[tower].items())),
            bound=self.bound,
            bits=self.bits,
            sites=max(1, len(members)),
            normaliser=max(1, _sum_weights(members, tower)),
            clamp_share=self.clamp_share,
        )


def _sum_weights(members: Sequence[KeyAnnouncement], tower: str) -> int:
    return sum(weight for member in members for name, weight in member.towers if name == tower)
