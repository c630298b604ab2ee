"""One site's share of the noise of a secure sum: drawn in floating point, rounded to the public grid, never cut.

The order matters. The site's own sum may be clamped before the noise: that keeps the sensitivity. After the noise
nothing is clamped, projected or checked: the words wrap around, and lead and site only ever see a function of the sum.
`fedhealth.secagg.primitives.noise_grid` derives the numbers and says why the rounded sum is as private as the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource


@dataclass(frozen=True)
class NoiseShare:
    """What the layout of a sum says about the noise of one array.

    Attributes:
        std: standard deviation of this site's share.
        step: of the grid.
        bound: largest magnitude of a value before the noise.
        shares: honest sites that every opened sum counts on.

    """

    std: float
    step: float
    bound: float
    shares: int

    def compute_multiplier(self, max_grad_norm: float) -> float:
        """Return the noise multiplier of the sum, which the shares of the honest sites guarantee."""
        return self.std * math.sqrt(self.shares) / max_grad_norm


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
