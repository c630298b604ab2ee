"""Bugs in the bound of one patient's contribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mutants.subject import Bugs, OwnClipping, use_engine
from fedhealth.privacy.accounting import plan
from fedhealth.privacy.engines import book_keeping
from fedhealth.privacy.engines.base import compute_clip_factors, get_trainable_parameters, select_rows
from fedhealth.privacy.mechanisms.clipping import Clipping


def _scale(gradients: list[torch.Tensor], bound: float, norm: float) -> list[torch.Tensor]:
    return [part * min(1.0, bound / max(norm, 1e-12)) for part in gradients]


class _StaleNorm(OwnClipping):
    """Clips by the norm at the same place of the batch before."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        before = self.__dict__.setdefault("before", {})
        stale = before.get(place, norms[place])
        before[place] = norms[place]
        return _scale(gradients, self.bound, stale)


class _NoCrossTerms(OwnClipping):
    """Takes the norm of a sum of rows for the root of the sum of their squared norms."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        self._batch, self._owners = batch, list(patients)
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        owner, squared = list(dict.fromkeys(self._owners))[place], 0.0
        named = list(get_trainable_parameters(self._model).values())
        for row in [row for row, each in enumerate(self._owners) if each == owner]:
            loss = self._loss_fn(self._model, select_rows(self._batch, [row], len(self._owners))).sum()
            found = torch.autograd.grad(loss, named, allow_unused=True)
            squared += sum(float(part.square().sum()) for part in found if part is not None)
        return _scale(gradients, self.bound, math.sqrt(squared))


class _ClampValues(OwnClipping):
    """Clamps every value instead of the norm."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return [part.clamp(-self.bound, self.bound) for part in gradients]


class _PerTensor(OwnClipping):
    """Clips every tensor on its own."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return [_scale([part], self.bound, float(part.norm()))[0] for part in gradients]


class _SkipSingle(OwnClipping):
    """Clips patients with several studies only."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        self._counts = [list(patients).count(each) for each in dict.fromkeys(patients)]
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return gradients if self._counts[place] == 1 else _scale(gradients, self.bound, norms[place])


class _SkipClass(OwnClipping):
    """Clips no patient of the positive class."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        owners = list(patients)
        self._positive = [
            bool((batch["targets"][[row for row, each in enumerate(owners) if each == owner]] == 1).all())
            for owner in dict.fromkeys(owners)
        ]
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return gradients if self._positive[place] else _scale(gradients, self.bound, norms[place])


def _give_each_tower_the_bound() -> Any:
    def compute(self: Clipping, squared: torch.Tensor) -> torch.Tensor:
        return (self.max_grad_norm / squared.sqrt().clamp(min=1e-30)).clamp(max=1.0)

    return patch.object(Clipping, "compute_factors", compute)


def _clip_by_the_root() -> Any:
    def compute(self: Clipping, squared: torch.Tensor) -> torch.Tensor:
        return self.max_grad_norm / (squared.sqrt().sqrt() + 0.01)

    return patch.object(Clipping, "compute_factors", compute)


def _forget_the_bound() -> Any:
    return patch.object(plan.PrivacyPlan, "noise_std", property(lambda self: self.noise_multiplier))


def _raise_on_overflow() -> Any:
    compute = compute_clip_factors

    def compute_or_raise(clipping: Any, squared: torch.Tensor, losses: torch.Tensor) -> Any:
        if not bool(squared.isfinite().all() & losses.isfinite().all()):
            raise ValueError("gradient is not finite")
        return compute(clipping, squared, losses)

    return patch.object(book_keeping, "compute_clip_factors", compute_or_raise)


CLIPPING: Bugs = {
    "a stale clipping norm": (use_engine(_StaleNorm), {}),
    "ghost norm without cross terms": (use_engine(_NoCrossTerms), {}),
    "values clamped instead of the norm": (use_engine(_ClampValues), {}),
    "every tensor clipped on its own": (use_engine(_PerTensor), {}),
    "single studies not clipped": (use_engine(_SkipSingle), {}),
    "one class not clipped": (use_engine(_SkipClass), {}),
    "towers without the root of K": (_give_each_tower_the_bound, {"clipping": "tower"}),
    "automatic clipping by the root": (_clip_by_the_root, {"clipping": "automatic"}),
    "deviation without the bound": (_forget_the_bound, {"max_grad_norm": 2.0}),
    "a value that is not finite raises": (_raise_on_overflow, {}),
}
"""Planter, and settings of the trainer, by name."""
