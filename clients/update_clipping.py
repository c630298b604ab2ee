"""An update that explodes is not sent; one that is too long is shortened: works with secure aggregation and without."""

from __future__ import annotations

import math

import numpy as np

from fedhealth.errors import ModelError
from fedhealth.models.model_state import norm_of
from fedhealth.types import State


def bounded(update: State, most: float | None) -> State:
    """Return the update, scaled down to an L2 norm of `most` where it is longer (Sun et al., 2019).

    Raises:
        ModelError: it holds values that are no numbers.

    """
    norm = norm_of(update)
    if not math.isfinite(norm):
        raise ModelError("The update holds values that are no numbers; it is not sent.", "Lower the learning rate.")
    if most is None or norm <= most:
        return update
    return {name: array * np.float32(most / norm) for name, array in update.items()}
