"""Clip a client update to a maximum L2 norm, and reject one that is not finite; also works with secure aggregation."""

from __future__ import annotations

import math

import numpy as np

from fedhealth.errors import ModelError
from fedhealth.models.model_state import compute_l2_norm
from fedhealth.types import State


def clip_update(update: State, norm: float, max_norm: float | None, is_private: bool = False) -> tuple[State, float]:
    """Return the update, scaled down to an L2 norm of `max_norm` if it is larger (Sun et al., 2019), and its norm.

    Under privacy an update that is not finite counts as zero: an error would tell the lead about un-noised values.

    Args:
        update: by name.
        norm: of the update in float64, where it is finite for any finite values of float32.
        max_norm: None scales nothing.
        is_private: whether training is differentially private.

    Raises:
        ModelError: the update holds values that are not finite, and the run is not private.

    """
    if not math.isfinite(norm):
        if is_private:
            return {name: np.zeros_like(array) for name, array in update.items()}, 0.0
        raise ModelError("The update holds values that are not finite; it is not sent.", "Lower the learning rate.")
    if max_norm is None or norm <= max_norm:
        return update, norm
    clipped = {name: array * np.float32(max_norm / norm) for name, array in update.items()}
    return clipped, compute_l2_norm(clipped)
