"""Open one DICOM file: its pixels' description, checked, or the reason why it cannot be used.

Only the elements that describe pixels are kept: names, dates and identifiers cannot leave in a message.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from fedhealth.data.image.decoders import DEFLATED_FRAMES, decodable, stored_frame, syntax_of
from fedhealth.data.image.display import picture
from fedhealth.data.image.error import ImageError
from fedhealth.data.image.grayscale import Whole

MAX_PIXELS = 100_000_000  # in the one frame that is decoded; the largest mammograms have 30 million
MAX_BYTES = 1 << 30  # of a file, and of what a deflated one expands to

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEYWORDS = [
    *("SOPClassUID", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{color}PaletteColorLookupTableDescriptor" for color in ("Red", "Green", "Blue")),
    *(f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *_PIXELS,
]
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_FRAMES = Tag("NumberOfFrames")


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
    dataset = open_dicom(file)
    image = read_frame(dataset, frames(dataset) // 2)
    assert image.dtype == np.uint8  # noqa: S101 - eight bits were asked for
    return image.astype(np.uint8, copy=False)


def open_dicom(file: BinaryIO, further: Sequence[BaseTag] = ()) -> Dataset:
    """Read a file's header and its pixel data, undecoded; `further` names elements to keep beside our own.

    Raises:
        ImageError: it is damaged beyond use, or expands to more than is allowed.

    """
    head = file.read(4096)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        _check_inflated_size(file, head)
    file.seek(0)
    dataset = dcmread(file, force=head[128:132] != b"DICM", specific_tags=[*_TAGS, *further])
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise ImageError("a DICOM directory, not an image", "Leave it out.")
        raise ImageError("nothing in the header describes an image: truncated, or no image", "Export the file again.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return dataset


def frames(dataset: Dataset) -> int:
    """Return how many frames the header announces."""
    return max(1, int(dataset[_FRAMES].value or 1)) if _FRAMES in dataset else 1


def read_frame(dataset: Dataset, index: int, bits: int = 8) -> Whole:
    """Decode one frame as it is to be seen: uint8 or uint16 [rows, columns] or [rows, columns, 3] (RGB), 0 = black.

    Raises:
        ImageError: with the reason.

    """
    return picture(read_stored(dataset, index), dataset, index, bits)


def read_stored(dataset: Dataset, index: int) -> npt.NDArray[Any]:
    """Decode one frame as it is stored, once the header is found possible.

    Raises:
        ImageError: with the reason.

    """
    _check_geometry(dataset)
    try:
        return stored_frame(dataset, index)
    except Exception:  # the decoders share no base class, and their messages quote the header
        raise _why(dataset) from None


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


def _why(dataset: Dataset) -> ImageError:
    """Return why the pixel data of a data set cannot be decoded."""
    syntax = syntax_of(dataset)
    try:
        known = decodable(dataset)
    except NotImplementedError:
        known = False
    if not known:
        return ImageError(
            f"no decoder for transfer syntax {syntax.name if syntax.is_valid else 'that is none'}",
            "Export the file in a common transfer syntax, such as Explicit VR Little Endian.",
        )
    native = syntax != DEFLATED_FRAMES and not syntax.is_encapsulated
    if native and "PixelData" in dataset and len(dataset.PixelData or b"") < get_expected_length(dataset):
        return ImageError("truncated pixel data", "Export or copy the file again.")
    return ImageError(
        f"pixel data ({syntax.name}) cannot be decoded: damaged, or a variant that no installed decoder reads",
        "Export the file again, or in Explicit VR Little Endian.",
    )
