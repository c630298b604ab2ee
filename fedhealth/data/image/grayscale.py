"""Map grey values to display values: lookup tables, windows, and a robust contrast stretch.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and windows). Values are float32 arrays of any
shape; results are in [0, 1] unless stated otherwise, 0 = black.
"""

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
IntegerImage = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_TAIL = 0.5  # percent cut at each end: dead pixels and burnt-in text must not set the contrast
_SAMPLE = 1_000_000  # the percentiles of a million evenly spaced pixels are good enough, whatever the size


def to_integer(unit: FloatImage, bits: int = 8) -> IntegerImage:
    """Round values in [0, 1] to integers of 8 or 16 bits; values outside are clipped, NaN becomes black."""
    top = np.float32(2**bits - 1)
    scaled: FloatImage = np.nan_to_num(unit, nan=0.0) * top + np.float32(0.5)
    limited = scaled.clip(0.0, top)
    return limited.astype(np.uint8) if bits == 8 else limited.astype(np.uint16)


def stretch_contrast(
    values: FloatImage, ignore: npt.NDArray[np.bool_] | None = None, counts: npt.NDArray[np.int64] | None = None
) -> FloatImage:
    """Map the 0.5th to 99.5th percentile linearly to [0, 1].

    Args:
        values: any range; infinities and NaN are ignored.
        ignore: same shape, True for padding, which must not affect the range.
        counts: same shape, how many pixels have each value; 1 by default.

    """
    step = max(1, values.size // _SAMPLE) if counts is None else 1
    kept = values.ravel()[::step]
    usable = np.isfinite(kept)
    if ignore is not None:
        usable &= ~ignore.ravel()[::step]
    if counts is not None:
        usable &= counts.ravel() > 0
    weights = None if counts is None else counts.ravel()[usable]
    kept = kept[usable]
    if kept.size == 0:
        return np.zeros_like(values)
    low, high = _compute_percentiles(kept, weights)
    if high <= low:  # a mask, or nearly empty: fewer than 0.5 % of the pixels have content
        low, high = kept.min(), kept.max()
    if high <= low:
        return np.zeros_like(values)
    return _clip_to_unit((values - np.float32(low)) / np.float32(high - low))


def _compute_percentiles(values: FloatImage, counts: npt.NDArray[np.int64] | None) -> tuple[float, float]:
    """Return the percentiles at both tails, interpolated like `numpy.percentile`."""
    shares = np.array([_TAIL, 100.0 - _TAIL])
    if counts is None:
        low, high = np.percentile(values, shares)
        return float(low), float(high)
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    place = shares / 100.0 * (ends[-1] - 1)
    below, above = (values[order][np.searchsorted(ends, at, side="right")] for at in (np.floor(place), np.ceil(place)))
    low, high = below + (above - below) * (place - np.floor(place))
    return float(low), float(high)


def apply_window(values: FloatImage, center: float, width: float, function: str = "LINEAR") -> FloatImage | None:
    """Apply a VOI window; return None if the width or the function is invalid, so that the caller can fall back."""
    if not np.isfinite([center, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "LINEAR":
        # The standard's half-pixel convention; a width of 1 is a threshold at center - 0.5.
        return _clip_to_unit((values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5)
    if function == "LINEAR_EXACT":
        return _clip_to_unit((values - center) / width + 0.5)
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / width, -60.0, 60.0)
        return _clip_to_unit(1.0 / (1.0 + np.exp(exponent)))
    return None


def _clip_to_unit(unit: npt.ArrayLike) -> FloatImage:
    return np.asarray(unit, dtype=np.float32).clip(0.0, 1.0)


def apply_lookup_table(values: FloatImage, table: FloatImage, first: int) -> FloatImage:
    """Replace each value v by table[v - first]; values outside the table get its first or last entry."""
    index = np.clip(np.nan_to_num(values) - first, 0, table.size - 1).astype(np.intp)
    return table[index]
