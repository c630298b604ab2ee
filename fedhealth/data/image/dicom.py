"""Open one DICOM file and check its pixel description; raise with a reason if it cannot be used.

Only the elements that describe pixels are read, so error messages cannot contain names, dates or identifiers.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, BinaryIO, cast

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

from fedhealth.config.windows import ValueWindow
from fedhealth.data.image.decoders import DEFLATED_FRAMES, decode_stored_frame, get_transfer_syntax, has_decoder
from fedhealth.data.image.display import render_frame
from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.grayscale import IntegerImage

MAX_PIXELS = 100_000_000  # of the one frame that is decoded; the largest mammograms have 30 million
MAX_BYTES = 1 << 30  # of a file, and of the expanded size of a deflated file
_SMALL = 1 << 25  # bytes of a file that is read at once

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEYWORDS = [
    *(
        "SOPClassUID",
        "Modality",
        "RescaleType",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
    ),
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
    """Return whether a file's first 132 bytes are DICOM, with or without the 128-byte preamble."""
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_dicom(file: BinaryIO, windows: Sequence[ValueWindow] = ()) -> npt.NDArray[np.uint8]:
    """Decode the middle frame of an open DICOM file.

    Args:
        file: the file.
        windows: for physical values.

    Returns:
        uint8 [rows, columns] or [rows, columns, 3] (RGB), 0 = black.

    Raises:
        ImageError: with the reason. Other exceptions of the parsers are not caught: the caller treats them as a
            damaged file.

    """
    dataset = open_dicom(file)
    image = read_frame(dataset, count_frames(dataset) // 2, windows=windows)
    assert image.dtype == np.uint8  # noqa: S101 - eight bits were requested
    return image.astype(np.uint8, copy=False)


def open_dicom(file: BinaryIO, further: Sequence[BaseTag] = ()) -> Dataset:
    """Read a file's header and its pixel data, undecoded; `further` lists additional elements to read.

    Raises:
        ImageError: the file has no usable header, or expands beyond the limit.

    """
    head = file.read(4096)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        _check_inflated_size(file, head)
    file.seek(0)
    dataset = dcmread(_bound_file(file), force=head[128:132] != b"DICM", specific_tags=[*_TAGS, *further])
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise ImageError("a DICOM directory, not an image", "Remove it.")
        raise ImageError("the header describes no image: truncated, or no image", "Export the file again.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return dataset


def _bound_file(file: BinaryIO) -> BinaryIO:
    """Return a file of which no more is read than it has; a small one is read at once, which saves many small reads."""
    if isinstance(file, BytesIO):
        return file
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return BytesIO(file.read()) if size <= _SMALL else cast(BinaryIO, _BoundedFile(file, size))


class _BoundedFile:
    """A file of which no more is read than it has: a header may claim gigabytes, and they would be allocated first."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._size = size
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, all that are left if it is negative."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))


def count_frames(dataset: Dataset) -> int:
    """Return the number of frames according to the header."""
    return max(1, int(dataset[_FRAMES].value or 1)) if _FRAMES in dataset else 1


def read_frame(dataset: Dataset, index: int, bits: int = 8, windows: Sequence[ValueWindow] = ()) -> IntegerImage:
    """Decode one frame for display: uint8 or uint16 [rows, columns] or [rows, columns, 3] (RGB), 0 = black.

    Several `windows` give as many channels of an image with physical values.

    Raises:
        ImageError: with the reason.

    """
    return render_frame(read_stored_frame(dataset, index), dataset, index, bits, windows)


def read_stored_frame(dataset: Dataset, index: int) -> npt.NDArray[Any]:
    """Check the header and decode one frame to its stored values.

    Raises:
        ImageError: with the reason.

    """
    _check_geometry(dataset)
    try:
        return decode_stored_frame(dataset, index)
    except Exception:  # decoder errors have no common base class, and their messages quote the header
        raise _explain_decode_failure(dataset) from None


def _check_inflated_size(file: BinaryIO, head: bytes) -> None:
    # pydicom inflates the whole stream at once, and one megabyte can expand to a gigabyte of zeros.
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


def _explain_decode_failure(dataset: Dataset) -> ImageError:
    """Return an error that explains why the pixel data cannot be decoded."""
    syntax = get_transfer_syntax(dataset)
    try:
        known = has_decoder(dataset)
    except NotImplementedError:
        known = False
    if not known:
        return ImageError(
            f"no decoder for transfer syntax {syntax.name if syntax.is_valid else 'with an invalid UID'}",
            "Export the file in a common transfer syntax, such as Explicit VR Little Endian.",
        )
    native = syntax != DEFLATED_FRAMES and not syntax.is_encapsulated
    if native and "PixelData" in dataset and len(dataset.PixelData or b"") < get_expected_length(dataset):
        return ImageError("truncated pixel data", "Export or copy the file again.")
    return ImageError(
        f"pixel data ({syntax.name}) cannot be decoded: damaged, or a variant that no installed decoder reads",
        "Export the file again, or in Explicit VR Little Endian.",
    )
