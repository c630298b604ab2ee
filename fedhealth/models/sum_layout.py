"""Derive the layout of a secure sum from the shapes of an update and its statistics: the lead and every site alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedhealth.models.modality_keys import SHARED, group_by_tower
from fedhealth.secagg.protocol.layout_plan import LayoutPlan


@dataclass(frozen=True)
class SumSettings:
    """The settings of a sum, from the run's configuration.

    Attributes:
        bits: of one value on the wire.
        clipping_range: largest magnitude of one value in a site's update.
        clamp_share: share of a layer's values that may exceed it and are clamped; 0 refuses instead.

    """

    bits: int
    clipping_range: float
    clamp_share: float

    def plan_layout(
        self, update: Mapping[str, tuple[int, ...]], statistics: Mapping[str, tuple[int, ...]]
    ) -> LayoutPlan:
        """Return the plan of a layout with a segment for each tower of the update and one for the statistics."""
        return LayoutPlan(
            towers=group_by_tower(update),
            statistics={name: math.prod(shape) for name, shape in statistics.items()},
            statistics_tower=SHARED,
            bits=self.bits,
            bound=self.clipping_range,
            clamp_share=self.clamp_share,
        )
