"""The layout of a sum, derived: lead and sites build it alike from the configuration and the members' announcements.

A site never takes a bound, a share of clamped values or a length from a message: it compares the lead's layout with
its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhealth.secagg.primitives.layout import Layout, VectorSpec, make_model_segment, make_statistics_segment
from fedhealth.secagg.protocol.messages import KeyAnnouncement

STATISTICS_SEGMENT = "statistics"
STATISTICS_BOUND = 2.0**50  # of one site's count or fixed-point sum; hundreds of sites stay far below 2^62


@dataclass(frozen=True)
class LayoutPlan:
    """What a layout is derived from, apart from the announcements.

    Args:
        towers: {tower: {layer: number of values}} of the update; empty if only statistics are summed.
        statistics: {name: number of values} of the statistics.
        statistics_tower: the tower that every site announces.
        bits: word size of a model's values.
        bound: largest magnitude of one value in a site's update.
        clamp_share: largest share of a layer's values that may lie beyond it and be clamped.

    """

    towers: Mapping[str, Mapping[str, int]]
    statistics: Mapping[str, int]
    statistics_tower: str
    bits: int
    bound: float
    clamp_share: float

    def build(self, members: Sequence[KeyAnnouncement]) -> Layout:
        """Return a segment for each tower and one for the statistics, with room for the weights of these members.

        Without members the sizes on the wire are right and the headroom is not.
        """
        sites = max(1, len(members))
        segments = [
            make_model_segment(
                tower,
                tower,
                dict(sorted(self.towers[tower].items())),
                bound=self.bound,
                bits=self.bits,
                sites=sites,
                normaliser=max(1, _sum_weights(members, tower)),
                clamp_share=self.clamp_share,
            )
            for tower in sorted(self.towers)
        ]
        sizes = sorted(self.statistics.items())
        if entries := tuple(VectorSpec(name, length, STATISTICS_BOUND, 1.0) for name, length in sizes):
            tower = self.statistics_tower
            segments.append(make_statistics_segment(STATISTICS_SEGMENT, tower, entries, sites=sites))
        return tuple(segments)


def _sum_weights(members: Sequence[KeyAnnouncement], tower: str) -> int:
    return sum(weight for member in members for name, weight in member.towers if name == tower)
