"""Derive the layout of a secure sum from the shapes of an update and its statistics: the lead and every site alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedhealth.models.modality_keys import SHARED, group_by_tower
from fedhealth.privacy.mechanisms.noised_counts import is_noised_table
from fedhealth.secagg.protocol.layout_plan import LayoutPlan, SharedNoise
from fedhealth.secagg.protocol.threshold import Thresholds


@dataclass(frozen=True)
class SumSettings:
    """The settings of a sum, from the run's configuration.

    Attributes:
        bits: of one value on the wire.
        clipping_range: largest magnitude of one value in a site's update.
        clamp_share: share of a layer's values that may exceed it and are clamped; 0 refuses instead.
        noise: `shared` if the sites share the noise of the sums; `local` if each adds its own, or none.
        noise_bits: of one value on the wire if they share it.
        max_grad_norm: the clipping bound of one patient, if they share it.

    """

    bits: int
    clipping_range: float
    clamp_share: float
    noise: Literal["local", "shared"] | None = None
    noise_bits: int = 24
    max_grad_norm: float = 0.0

    @property
    def shares_noise(self) -> bool:
        """Whether the sites share the noise of the sums."""
        return self.noise == "shared"

    def plan_layout(
        self,
        update: Mapping[str, tuple[int, ...]],
        statistics: Mapping[str, tuple[int, ...]],
        thresholds: Thresholds | None = None,
        sensitivity: float = 0.0,
    ) -> LayoutPlan:
        """Return the plan of a layout with a segment for each tower of the update and those of the statistics.

        Args:
            update: shapes of the arrays.
            statistics: shapes of the vectors.
            thresholds: of the run, as the caller computes them; None where only sizes matter.
            sensitivity: of the tables among the statistics whose noise the sites share; 0 if there are none.

        """
        shared, tables = None, set[str]()
        if self.shares_noise:
            colluders, least = (thresholds.colluders, thresholds.min_owners) if thresholds else (0, 0)
            shared = SharedNoise(self.max_grad_norm, self.noise_bits, colluders, least, sensitivity)
            tables = {name for name in statistics if sensitivity and is_noised_table(name, statistics)}
        sizes = {name: math.prod(shape) for name, shape in statistics.items()}
        return LayoutPlan(
            towers=group_by_tower(update),
            statistics={name: size for name, size in sizes.items() if name not in tables},
            statistics_tower=SHARED,
            bits=self.bits,
            bound=self.clipping_range,
            clamp_share=self.clamp_share,
            noise=shared,
            tables={name: sizes[name] for name in tables},
        )
