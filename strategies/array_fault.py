"""What may be wrong with an array that a site, an aggregation or a server optimizer gives: its form, or its values."""

from __future__ import annotations

from enum import Enum

import numpy as np


class ArrayFault(Enum):
    """The first fault of an array."""

    form = "form"
    values = "values"


def find_array_fault(given: object, shape: tuple[int, ...], dtype: np.dtype) -> ArrayFault | None:
    """Return what is wrong with an array; None if it is right.

    Args:
        given: of any type.
        shape: as it must be.
        dtype: as it must be; values of a floating type must be finite.

    """
    if not isinstance(given, np.ndarray) or (given.shape, given.dtype) != (shape, dtype):
        return ArrayFault.form
    if np.issubdtype(dtype, np.floating) and not np.isfinite([given.max(initial=0), given.min(initial=0)]).all():
        return ArrayFault.values  # a maximum is NaN if any value is; a mask of all values would be a quarter of them
    return None
