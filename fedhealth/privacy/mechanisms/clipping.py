"""Clipping of one patient's gradient: flat, per tower, or automatic (normalising)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedhealth.errors import PrivacyError

# Clip slightly below the bound, so that rounding in the norm (about 1e-7) never exceeds it.
_ROUNDING_MARGIN = 1 - 1e-6
# No sum of clipped gradients reaches the end of float32 (3e38): an overflow would depend on the patients.
_LARGEST_BOUND = 1e18
# Squares of values below 1e-19 vanish in float32, so a norm may miss up to 1e-14 of a gradient of 1e10 such values; and
# scaled values below 1e-38 may be flushed to zero. Above this bound neither matters.
SMALLEST_BOUND = 1e-9


@dataclass(frozen=True)
class Clipping:
    """The rule that keeps the L2 norm of every patient's contribution at or below `max_grad_norm`.

    Attributes:
        max_grad_norm: C, the L2 sensitivity of the clipped sum to adding or removing one patient.
        mode: `flat` scales by min(1, C / norm). `tower` does so in every parameter group with C / sqrt(K), so
            that K groups together stay within C. `automatic` scales by C / (norm + 0.01): every patient has
            the same weight and C becomes a learning rate (Bu et al., "Automatic clipping", NeurIPS 2023).
        towers: for `tower`, the parameter-name prefixes; parameters under none of them form one more group.

    Raises:
        PrivacyError: the bound is too small or too large for float32, or towers and mode contradict each other.

    """

    max_grad_norm: float
    mode: Literal["flat", "tower", "automatic"] = "flat"
    towers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not SMALLEST_BOUND <= self.max_grad_norm <= _LARGEST_BOUND:
            raise PrivacyError(
                f"max_grad_norm {self.max_grad_norm} is not a number from {SMALLEST_BOUND:g} to {_LARGEST_BOUND:g}",
                "Set it to about the norm of a patient's gradient.",
            )
        if self.mode not in ("flat", "tower", "automatic"):
            raise PrivacyError(f"unknown clipping mode {self.mode!r}", "Choose flat, tower or automatic.")
        if bool(self.towers) != (self.mode == "tower"):
            raise PrivacyError(
                f"clipping mode {self.mode} with towers {list(self.towers)}",
                "Name at least one tower prefix with mode=tower, and none with the other modes.",
            )

    def assign_groups(self, names: Iterable[str]) -> list[int]:
        """Return the group of every parameter name: that of its longest matching prefix, else the last group."""
        return [self._group(name) for name in names]

    def _group(self, name: str) -> int:
        hits = [i for i, prefix in enumerate(self.towers) if f"{name}.".startswith(f"{prefix.rstrip('.')}.")]
        return max(hits, key=lambda i: len(self.towers[i]), default=len(self.towers))

    def compute_factors(self, squared_norms: Tensor) -> Tensor:
        """Return the factor of every patient and group.

        Args:
            squared_norms: [G, K], squared L2 norms per patient and parameter group (`assign_groups` gives the groups).

        Returns:
            [G, K], each in [0, 1] (automatic clipping may exceed 1); 0 where the norm is not finite.

        """
        norms = squared_norms.sqrt()
        if self.mode == "automatic":
            factors = self.max_grad_norm * _ROUNDING_MARGIN / (norms + 0.01)
        else:
            share = self.max_grad_norm * _ROUNDING_MARGIN / float(squared_norms.shape[1]) ** 0.5
            factors = (share / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
        return factors.where(norms.isfinite(), torch.zeros_like(norms))

    @property
    def group_count(self) -> int:
        """Number of parameter groups K."""
        return len(self.towers) + 1
