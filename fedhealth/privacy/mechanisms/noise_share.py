"""One site's share of the noise of a secure sum: drawn in floating point, rounded to the public grid, never cut.

The order matters. The site's own sum may be clamped before the noise: that keeps the sensitivity. After the noise
nothing is clamped, projected or checked: the words wrap around, and lead and site only ever see a function of the sum.
`fedhealth.secagg.primitives.noise_grid` derives the numbers and says why the rounded sum is as private as the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.secagg.primitives.noise_grid import is_blank


@dataclass(frozen=True)
class NoiseShare:
    """What the layout of a sum says about the noise of one array or table.

    Attributes:
        std: standard deviation of this site's share.
        step: of the grid.
        bound: largest magnitude of a value before the noise.
        shares: honest sites that every opened sum counts on.
        size: number of values.

    """

    std: float
    step: float
    bound: float
    shares: int
    size: int = 0

    def compute_multiplier(self, sensitivity: float) -> float:
        """Return the noise multiplier of the sum, which the shares of the honest sites guarantee."""
        return self.std * math.sqrt(self.shares) / sensitivity


def draw_shares(values: Mapping[str, Tensor], shares: Mapping[str, NoiseShare]) -> dict[str, NDArray[np.int64]]:
    """Return a site's values with their share of the noise, and the blanks of their segments, from a fresh source.

    A value that too few sites have stays here: it is in no segment, and no other part of the round depends on it.
    """
    source = NoiseSource()
    blanks = {name: torch.zeros(share.size) for name, share in shares.items() if is_blank(name)}
    found = {**values, **blanks}
    return {name: draw_share(found[name], share, source) for name, share in shares.items() if name in found}


def draw_share(total: Tensor, share: NoiseShare, source: NoiseSource) -> NDArray[np.int64]:
    """Return a site's sum with its share of the noise, in steps of the grid; every call draws anew.

    Args:
        total: the sum of clipped gradients; not modified.
        share: of the noise.
        source: of the noise.

    Raises:
        PrivacyError: the sum is not finite.

    """
    values = total.detach().cpu().numpy()
    return source.round_with_noise(values, share.std, share.step, share.bound).reshape(values.shape)
