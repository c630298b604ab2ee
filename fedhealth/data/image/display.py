"""Render a stored frame for display: modality LUT, VOI LUT or window, photometric interpretation (PS3.3 C.7.6.3, C.11).

Each step maps single values, so for integers the result is computed once per value and applied as a lookup table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from fedhealth.config.windows import ValueWindow
from fedhealth.data.image import grayscale
from fedhealth.data.image.decoders import get_transfer_syntax
from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.grayscale import FloatImage, IntegerImage

_LUT_MIN_PIXELS = 1 << 14  # from this many pixels on, a table of all values is cheaper than computing each pixel
_PHYSICAL = ("CT", "PT")
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
_SMEAR = 16  # lossy compression changes padding by up to this part of the range of stored values
_CONTRAST_SAMPLE = 1 << 14  # pixels, evenly spaced, that are enough to set the contrast


def render_frame(
    stored: npt.NDArray[Any], dataset: Dataset, index: int, bits: int = 8, windows: Sequence[ValueWindow] = ()
) -> IntegerImage:
    """Render a stored frame as it is displayed.

    Args:
        stored: [rows, columns] or [rows, columns, 3] (RGB).
        dataset: its header.
        index: the frame's index in the data set.
        bits: of the result, 8 or 16.
        windows: for physical values, instead of those of the header.

    Returns:
        uint8 or uint16, with the shape of `stored`, or [rows, columns, 3] for palettes and several windows; 0 = black.

    Raises:
        ImageError: a lookup table in the header cannot be used.

    """
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _render_color(stored, dataset, bits)
    groups = list(_iterate_groups(dataset, index))
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or stored.size < _LUT_MIN_PIXELS:
        return _map_to_grey_levels(
            _apply_modality_lut(stored.astype(np.float32), groups),
            groups,
            _find_padding(stored, dataset),
            bits,
            windows=windows,
        )
    lowest = min(0, int(stored.min())) if stored.dtype.kind == "i" else 0
    highest = 255 if stored.dtype.itemsize == 1 else int(stored.max())
    places = stored if lowest == 0 else stored.astype(np.int32) - lowest
    domain = np.arange(lowest, highest + 1)
    counts = np.bincount(places.ravel()[:: max(1, stored.size // _CONTRAST_SAMPLE)], minlength=domain.size)
    values = _apply_modality_lut(domain.astype(np.float32), groups)
    table = _map_to_grey_levels(values, groups, _find_padding(domain, dataset), bits, counts, windows)
    if table.ndim == 2:
        return table.take(places, axis=0, mode="clip")
    if stored.dtype == np.uint8 and bits == 8:  # by far the fastest
        return np.frombuffer(stored.tobytes().translate(table.tobytes()), np.uint8).reshape(stored.shape)
    return table.take(places, mode="clip")  # no index is out of range; "clip" is the fastest mode


def render_projection(
    slices: Iterable[tuple[npt.NDArray[Any], Dataset, int]], bits: int = 8, windows: Sequence[ValueWindow] = ()
) -> IntegerImage:
    """Return the maximum intensity projection of grey slices, with the window of the first slice.

    Args:
        slices: (stored frame [rows, columns], its header, its index); all of the same size.
        bits: of the result, 8 or 16.
        windows: for physical values, instead of those of the header.

    Raises:
        ImageError: the slices have different sizes, or colour.

    """
    first: list[Dataset] = []

    def iterate_values() -> Iterator[FloatImage]:
        for stored, dataset, index in slices:
            groups = list(_iterate_groups(dataset, index))
            first.extend([] if first else groups)
            values = _apply_modality_lut(stored.astype(np.float32), groups)
            padding = _find_padding(stored, dataset)
            yield values if padding is None else np.where(padding, -np.inf, values)

    values = reduce(_take_maximum, iterate_values())
    return _map_to_grey_levels(values, first, None, bits, windows=windows)


def _take_maximum(one: FloatImage, other: FloatImage) -> FloatImage:
    if one.shape != other.shape or one.ndim != 2:
        raise ImageError("slices of different sizes cannot be projected", "Choose another rule for this series.")
    return np.maximum(one, other)


def _map_to_grey_levels(
    values: FloatImage,
    groups: list[Dataset],
    padding: npt.NDArray[np.bool_] | None,
    bits: int,
    counts: Any = None,
    windows: Sequence[ValueWindow] = (),
) -> IntegerImage:
    """Map modality values to integer grey levels; `counts` = how many pixels have each value.

    Several windows add an axis of channels.
    """
    if windows and _has_physical_values(groups):
        units = [_show_window(values, window) for window in windows]
        return grayscale.to_integer(units[0] if len(units) == 1 else np.stack(units, axis=-1), bits)
    unit = _apply_voi(values, groups)
    if unit is None:
        # Without a window the frame's content sets the contrast, also for 8 bits, so that images of scanners that
        # store 8 and 12 bits are comparable.
        unit = grayscale.stretch_contrast(values, padding, counts)
    if groups[0].PhotometricInterpretation == "MONOCHROME1":
        unit = 1.0 - unit
    return grayscale.to_integer(unit, bits)


def _has_physical_values(groups: list[Dataset]) -> bool:
    """Return whether modality values have a unit: Hounsfield units of CT, or the activity of PET.

    Raises:
        ImageError: a CT or PET image has no rescale values.

    """
    if groups[0].get("Modality") not in _PHYSICAL and groups[0].get("RescaleType") != "HU":
        return False
    if not any(group.get("RescaleSlope") is not None or group.get("ModalityLUTSequence") for group in groups):
        raise ImageError("no rescale values in the header, so its values have no unit", "Export the original images.")
    return True


def _show_window(values: FloatImage, window: ValueWindow) -> FloatImage:
    shown = grayscale.apply_window(values, *window, "LINEAR_EXACT")
    assert shown is not None  # noqa: S101 - the configuration's windows are valid
    return shown


def _find_padding(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Return a mask of padding values: one value, or a range if the header gives both ends.

    Lossy compression smears them: values near them are padding too.
    """
    one = dataset.get("PixelPaddingValue")
    if one is None:
        return None
    other = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(one), int(one if other is None else other)))
    if get_transfer_syntax(dataset) in _LOSSY:
        smear = 2 ** int(dataset.BitsStored) // _SMEAR
        low, high = low - smear, high + smear
    return (stored >= low) & (stored <= high)


def _render_color(stored: npt.NDArray[Any], dataset: Dataset, bits: int) -> IntegerImage:
    depth = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        palette = _read_palette(dataset, int(stored.max(initial=0)), stored.dtype, bits)
        return palette.take(stored, axis=0, mode="clip")  # no index is out of range; five times faster than indexing
    if stored.dtype == np.uint8 and depth == bits == 8:
        return stored
    return grayscale.to_integer(stored.astype(np.float32) / np.float32(2**depth - 1), bits)


def _read_palette(dataset: Dataset, highest: int, kind: np.dtype[Any], bits: int) -> IntegerImage:
    """Return the colour [values, 3] of each stored value up to the highest."""
    colors = apply_color_lut(np.arange(highest + 1, dtype=kind), dataset)[..., :3]
    # Some scanners declare 16-bit palettes but store 8-bit values in them.
    depth = 16 if colors.max(initial=0) > 255 else 8
    return grayscale.to_integer(colors.astype(np.float32) / np.float32(2**depth - 1), bits)


def _iterate_groups(dataset: Dataset, index: int) -> Iterator[Dataset]:
    """Yield the data sets that may contain a frame's LUTs and window: the top level, then the functional groups."""
    yield dataset
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *(dataset.get("SharedFunctionalGroupsSequence") or [])]:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            yield from group.get(keyword) or []


def _apply_modality_lut(values: FloatImage, groups: list[Dataset]) -> FloatImage:
    for group in groups:
        if group.get("ModalityLUTSequence"):
            table, first, _ = _read_lut(group.ModalityLUTSequence[0], groups[0])
            return grayscale.apply_lookup_table(values, table, first)
        if group.get("RescaleSlope") is not None:
            slope, intercept = float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0.0)
            return np.asarray(values * slope + intercept, dtype=np.float32)
    return values


def _apply_voi(values: FloatImage, groups: list[Dataset]) -> FloatImage | None:
    """Apply the first VOI LUT or window; return None if there is no valid one.

    LINEAR's correction for integer grey levels does not apply to stored floats.
    """
    exact = "PixelData" not in groups[0]
    for group in groups:
        if group.get("VOILUTSequence"):
            table, first, bits = _read_lut(group.VOILUTSequence[0], groups[0])
            return grayscale.apply_lookup_table(values, table, first) / np.float32(2**bits - 1)
        center, width = _get_first_number(group.get("WindowCenter")), _get_first_number(group.get("WindowWidth"))
        if center is not None and width is not None:
            function = str(group.get("VOILUTFunction") or "LINEAR").upper()
            linear = "LINEAR_EXACT" if exact else "LINEAR"
            return grayscale.apply_window(values, center, width, linear if function == "LINEAR" else function)
    return None


def _get_first_number(value: object) -> float | None:
    """Return the first of one or more numbers (alternative windows), or None."""
    many = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return None if not many or many[0] in (None, "") else float(str(many[0]))


def _read_lut(item: Dataset, dataset: Dataset) -> tuple[FloatImage, int, int]:
    """Read a LUT sequence item -> (entries, first mapped value, bits of an entry)."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):  # VR OW: words in the byte order of the file
        little = get_transfer_syntax(dataset).is_little_endian
        data = np.frombuffer(data, dtype="<u2" if little else ">u2")
    table = np.asarray([] if data is None else data, dtype=np.float32).ravel()[: entries or 1 << 16]
    if table.size == 0:
        raise ImageError("an empty lookup table in the header", "Export the file again.")
    return table, first, bits
