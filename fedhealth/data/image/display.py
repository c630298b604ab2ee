"""What a stored frame looks like: modality LUT, VOI LUT or window, photometric interpretation (PS3.3 C.7.6.3, C.11).

All of it maps each stored value by itself, so that for integers it is worked out once for each value and looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from fedhealth.data.image import grayscale
from fedhealth.data.image.decoders import syntax_of
from fedhealth.data.image.error import ImageError
from fedhealth.data.image.grayscale import Float, Whole

_LOOKED_UP = 1 << 14  # from this many pixels on, a table of all values is cheaper than each pixel by itself
_COUNTED = 1 << 14  # pixels, evenly spaced, that are enough to set the contrast


def picture(stored: npt.NDArray[Any], dataset: Dataset, index: int, bits: int = 8) -> Whole:
    """Return what is seen of a stored frame.

    Args:
        stored: [rows, columns] or [rows, columns, 3] (RGB).
        dataset: its header.
        index: which frame of it this is.
        bits: of the result, 8 or 16.

    Returns:
        uint8 or uint16, of the shape of `stored`, [rows, columns, 3] for palettes; 0 = black.

    Raises:
        ImageError: a lookup table in the header cannot be used.

    """
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _color(stored, dataset, bits)
    groups = list(_groups(dataset, index))
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or stored.size < _LOOKED_UP:
        return _tones(_modality(stored.astype(np.float32), groups), groups, _padding(stored, dataset), bits)
    lowest = min(0, int(stored.min())) if stored.dtype.kind == "i" else 0
    highest = 255 if stored.dtype.itemsize == 1 else int(stored.max())
    places = stored if lowest == 0 else stored.astype(np.int32) - lowest
    domain = np.arange(lowest, highest + 1)
    counts = np.bincount(places.ravel()[:: max(1, stored.size // _COUNTED)], minlength=domain.size)
    values = _modality(domain.astype(np.float32), groups)
    table = _tones(values, groups, _padding(domain, dataset), bits, counts)
    if stored.dtype == np.uint8 and bits == 8:  # the fastest way by far
        return np.frombuffer(stored.tobytes().translate(table.tobytes()), np.uint8).reshape(stored.shape)
    return table.take(places, mode="clip")  # nothing lies outside; clipping is the fast way


def projection(slices: Iterable[tuple[npt.NDArray[Any], Dataset, int]], bits: int = 8) -> Whole:
    """Return the maximum intensity projection of grey slices, seen through the first one's window.

    Args:
        slices: (stored frame [rows, columns], its header, which frame it is); all of one size.
        bits: of the result, 8 or 16.

    Raises:
        ImageError: slices of several sizes, or in colour.

    """
    first: list[Dataset] = []

    def measured() -> Iterator[Float]:
        for stored, dataset, index in slices:
            groups = list(_groups(dataset, index))
            first.extend([] if first else groups)
            values = _modality(stored.astype(np.float32), groups)
            padding = _padding(stored, dataset)
            yield values if padding is None else np.where(padding, -np.inf, values)

    values = reduce(_brighter, measured())
    return _tones(values, first, None, bits)


def _brighter(one: Float, other: Float) -> Float:
    if one.shape != other.shape or one.ndim != 2:
        raise ImageError("slices that cannot be projected on each other", "Choose another rule for this series.")
    return np.maximum(one, other)


def _tones(
    values: Float, groups: list[Dataset], padding: npt.NDArray[np.bool_] | None, bits: int, counts: Any = None
) -> Whole:
    """Turn measured values into whole grey levels; `counts` of pixels where values stand for many."""
    unit = _voi(values, groups)
    if unit is None:
        # No window: the frame's own content sets the contrast. Also for 8 bits, so that scanners which store
        # 8 and 12 bits give comparable pictures.
        unit = grayscale.stretch(values, padding, counts)
    if groups[0].PhotometricInterpretation == "MONOCHROME1":
        unit = 1.0 - unit
    return grayscale.to_whole(unit, bits)


def _padding(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Tell which values are padding: one value, or a range where the header gives its other end."""
    one = dataset.get("PixelPaddingValue")
    if one is None:
        return None
    other = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(one), int(one if other is None else other)))
    return (stored >= low) & (stored <= high)


def _color(stored: npt.NDArray[Any], dataset: Dataset, bits: int) -> Whole:
    depth = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        palette = _palette(dataset, int(stored.max(initial=0)), stored.dtype, bits)
        return palette.take(stored, axis=0, mode="clip")  # nothing lies outside; a fifth of the time of an index
    if stored.dtype == np.uint8 and depth == bits == 8:
        return stored
    return grayscale.to_whole(stored.astype(np.float32) / np.float32(2**depth - 1), bits)


def _palette(dataset: Dataset, highest: int, kind: np.dtype[Any], bits: int) -> Whole:
    """Return the colour [values, 3] of every stored value up to the highest."""
    colors = apply_color_lut(np.arange(highest + 1, dtype=kind), dataset)[..., :3]
    # Some scanners declare 16-bit palettes and fill them with 8-bit values.
    depth = 16 if colors.max(initial=0) > 255 else 8
    return grayscale.to_whole(colors.astype(np.float32) / np.float32(2**depth - 1), bits)


def _groups(dataset: Dataset, index: int) -> Iterator[Dataset]:
    """Yield what may hold a frame's LUTs and window: the data set, then the enhanced functional groups."""
    yield dataset
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *(dataset.get("SharedFunctionalGroupsSequence") or [])]:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            yield from group.get(keyword) or []


def _modality(values: Float, groups: list[Dataset]) -> Float:
    for group in groups:
        if group.get("ModalityLUTSequence"):
            table, first, _ = _table(group.ModalityLUTSequence[0], groups[0])
            return grayscale.lookup(values, table, first)
        if group.get("RescaleSlope") is not None:
            slope, intercept = float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0.0)
            return np.asarray(values * slope + intercept, dtype=np.float32)
    return values


def _voi(values: Float, groups: list[Dataset]) -> Float | None:
    """Apply the first VOI LUT or window found; None where there is no valid one.

    LINEAR's correction for whole grey levels has no meaning where floats are stored.
    """
    exact = "PixelData" not in groups[0]
    for group in groups:
        if group.get("VOILUTSequence"):
            table, first, bits = _table(group.VOILUTSequence[0], groups[0])
            return grayscale.lookup(values, table, first) / np.float32(2**bits - 1)
        center, width = _first(group.get("WindowCenter")), _first(group.get("WindowWidth"))
        if center is not None and width is not None:
            function = str(group.get("VOILUTFunction") or "LINEAR").upper()
            linear = "LINEAR_EXACT" if exact else "LINEAR"
            return grayscale.window(values, center, width, linear if function == "LINEAR" else function)
    return None


def _first(value: object) -> float | None:
    """Return the first of one or several numbers (alternative windows), None if there is none."""
    many = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return None if not many or many[0] in (None, "") else float(str(many[0]))


def _table(item: Dataset, dataset: Dataset) -> tuple[Float, int, int]:
    """Read a LUT sequence item -> (entries, first mapped value, bits of an entry)."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):  # VR OW: words in the byte order of the file
        little = syntax_of(dataset).is_little_endian
        data = np.frombuffer(data, dtype="<u2" if little else ">u2")
    table = np.asarray([] if data is None else data, dtype=np.float32).ravel()[: entries or 1 << 16]
    if table.size == 0:
        raise ImageError("an empty lookup table in the header", "Export the file again.")
    return table, first, bits
