"""One DICOM file -> one display-ready frame, or the reason why not.

Only the elements that describe pixels are kept: names, dates and identifiers cannot leave in a message. The
order of operations is the standard's (PS3.3 C.7.6.3, C.11): decode, modality LUT, VOI LUT or window, then the
photometric interpretation.
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import get_expected_length, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fedhealth.data import grayscale
from fedhealth.errors import DataError

MAX_PIXELS = 100_000_000  # in the one frame that is decoded; the largest mammograms have 30 million
MAX_BYTES = 1 << 30  # of a file, and of what a deflated one expands to

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS = [
    *("SOPClassUID", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "PixelRepresentation"),
    *("PixelPaddingValue", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{color}PaletteColorLookupTableDescriptor" for color in ("Red", "Green", "Blue")),
    *(f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *_PIXELS,
]


class ImageError(DataError):
    """An image file that cannot be used.

    Args:
        reason: short, without the path, so that reasons can be counted; quotes no header value other than the
            transfer syntax and the geometry.
        advice: what to do about it.
        path: the file, where it is known.

    """

    def __init__(self, reason: str, advice: str = "", path: Path | None = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason, advice)
        self.reason = reason


def is_dicom(head: bytes) -> bool:
    """Tell from a file's first 132 bytes; also true of data sets stored without the 128-byte preamble."""
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_dicom(file: BinaryIO) -> npt.NDArray[np.uint8]:
    """Decode the middle frame of an open DICOM file.

    Returns:
        uint8 [rows, columns] or [rows, columns, 3] (RGB), 0 = black.

    Raises:
        ImageError: with the reason. Other exceptions of the parsers pass through: the caller treats them as a
            sign of damage.

    """
    dataset = _read(file)
    _check_geometry(dataset)
    _check_decodable(dataset)
    index = _frames(dataset) // 2
    stored = _decode(dataset, index)
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _color(stored, dataset)
    return _grey(stored, dataset, index)


def _read(file: BinaryIO) -> Dataset:
    head = file.read(4096)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        _check_inflated_size(file, head)
    file.seek(0)
    dataset = dcmread(file, force=head[128:132] != b"DICM", specific_tags=list(_TAGS))
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise ImageError("the file is truncated, or its DICOM header is damaged", "Export or copy the file again.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return dataset


def _check_inflated_size(file: BinaryIO, head: bytes) -> None:
    # pydicom inflates the whole stream at once, and one megabyte can hold a gigabyte of zeros.
    file.seek(144 + int.from_bytes(head[140:144], "little"))  # 144 = preamble, DICM, and the group length element
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, chunk = 0, file.read(1 << 16)
    while chunk:
        total += len(inflate.decompress(chunk, 1 << 24))
        if total > MAX_BYTES:
            raise ImageError("the deflated data set expands beyond 1 GiB", "Export the file uncompressed.")
        chunk = inflate.unconsumed_tail or file.read(1 << 16)


def _frames(dataset: Dataset) -> int:
    return max(1, int(dataset.get("NumberOfFrames") or 1))


def _check_geometry(dataset: Dataset) -> None:
    if not any(keyword in dataset for keyword in _PIXELS):
        raise ImageError("no pixel data", "Leave the image empty for this study, or export it again.")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if rows < 1 or columns < 1:
        raise ImageError("no image size (Rows, Columns) in the header", "Export the file again.")
    if rows * columns > MAX_PIXELS:
        raise ImageError(
            f"{columns} x {rows} pixels exceed the limit of {MAX_PIXELS // 10**6} million",
            "Export a smaller rendition (whole-slide images must be tiled).",
        )


def _check_decodable(dataset: Dataset) -> None:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"no decoder for transfer syntax {syntax.name}",
            "Export the file in a common transfer syntax, such as Explicit VR Little Endian.",
        ) from None
    if not decoder.is_available:
        wanted = sorted(need.split(" requires ")[-1] for need in decoder.missing_dependencies)
        raise ImageError(f"no decoder for transfer syntax {syntax.name}", f"Install one of: {'; '.join(wanted)}.")
    native = not syntax.is_encapsulated and "PixelData" in dataset
    if native and len(dataset.PixelData or b"") < get_expected_length(dataset):
        raise ImageError("truncated pixel data", "Export or copy the file again.")


def _decode(dataset: Dataset, index: int) -> npt.NDArray[Any]:
    try:
        return pixel_array(dataset, index=index)
    except Exception:  # the decoders share no base class, and their messages quote the header
        name = UID(dataset.file_meta.TransferSyntaxUID).name
        raise ImageError(
            f"pixel data ({name}) cannot be decoded: damaged, or a variant that no installed decoder reads",
            "Export the file again, or in Explicit VR Little Endian.",
        ) from None


def _color(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.uint8]:
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        # Some scanners declare 16-bit palettes and fill them with 8-bit values.
        bits = 16 if stored.max(initial=0) > 255 else 8
    return grayscale.to_uint8(stored.astype(np.float32) / np.float32(2**bits - 1))


def _grey(stored: npt.NDArray[Any], dataset: Dataset, index: int) -> npt.NDArray[np.uint8]:
    groups = list(_groups(dataset, index))
    values = _modality(stored.astype(np.float32), groups)
    unit = _voi(values, groups, exact=stored.dtype.kind == "f")
    if unit is None:
        # No window: the frame's own content sets the contrast. Also for 8 bits, so that scanners which store
        # 8 and 12 bits give comparable pictures.
        padding = dataset.get("PixelPaddingValue")
        unit = grayscale.stretch(values, None if padding is None else stored == padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        unit = 1.0 - unit
    return grayscale.to_uint8(unit)


def _groups(dataset: Dataset, index: int) -> Iterator[Dataset]:
    """Yield what may hold a frame's LUTs and window: the data set, then the enhanced functional groups."""
    yield dataset
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *(dataset.get("SharedFunctionalGroupsSequence") or [])]:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            yield from group.get(keyword) or []


def _modality(values: grayscale.Float, groups: list[Dataset]) -> grayscale.Float:
    for group in groups:
        if group.get("ModalityLUTSequence"):
            table, first, _ = _table(group.ModalityLUTSequence[0], groups[0])
            return grayscale.lookup(values, table, first)
        if group.get("RescaleSlope") is not None:
            slope, intercept = float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0.0)
            return np.asarray(values * slope + intercept, dtype=np.float32)
    return values


def _voi(values: grayscale.Float, groups: list[Dataset], exact: bool) -> grayscale.Float | None:
    """Apply the first VOI LUT or window found; None where there is no valid one.

    `exact`: stored as floats, where LINEAR's correction for whole grey levels has no meaning.
    """
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


def _table(item: Dataset, dataset: Dataset) -> tuple[grayscale.Float, int, int]:
    """Read a LUT sequence item -> (entries, first mapped value, bits of an entry)."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):  # VR OW: words in the byte order of the file
        little = UID(dataset.file_meta.TransferSyntaxUID).is_little_endian
        data = np.frombuffer(data, dtype="<u2" if little else ">u2")
    table = np.asarray([] if data is None else data, dtype=np.float32).ravel()[: entries or 1 << 16]
    if table.size == 0:
        raise ImageError("an empty lookup table in the header", "Export the file again.")
    return table, first, bits
