"""Decode one stored frame of pixel data: pydicom's decoders, and the formats that they do not support.

imagecodecs reads the JPEG and JPEG-LS variants that Pillow does not: lossless, 12 bits, JPEG-LS. Deflated frames
(PS3.5 10.20) and single-bit frames in RLE are unpacked here. Bits outside the stored bits are not part of a value
(PS3.5 8.1.1), for any high bit.
"""

from __future__ import annotations

import zlib
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import rle
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

DEFLATED_FRAMES = UID("1.2.840.10008.1.2.8.1")
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
DECODER_DEPENDENCIES = dict.fromkeys((JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, *_JPEG_LS), ("imagecodecs",))
"""The transfer syntaxes that this module decodes, in the form of pydicom's plugin interface."""

_LABEL = "fedhealth"
_RLE_HEADER = 64  # bytes
_SINGLE_CHANNEL = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def is_available(syntax: str) -> bool:
    """Return whether this module decodes a transfer syntax; called by pydicom."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one JPEG or JPEG-LS frame for pydicom -> little-endian samples, colour by pixel."""
    import imagecodecs

    decode = imagecodecs.jpegls_decode if runner.transfer_syntax in _JPEG_LS else imagecodecs.jpeg_decode
    pixels: npt.NDArray[Any] = decode(src)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()


def get_transfer_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; converting to `UID` is slow, so it is done only if needed."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return syntax if isinstance(syntax, UID) else UID(syntax)


def has_decoder(dataset: Dataset) -> bool:
    """Return whether there is a decoder for the data set's transfer syntax.

    Raises:
        NotImplementedError: pydicom does not know the transfer syntax.

    """
    syntax = get_transfer_syntax(dataset)
    return syntax == DEFLATED_FRAMES or get_decoder(syntax).is_available


def decode_stored_frame(dataset: Dataset, index: int) -> npt.NDArray[Any]:
    """Return frame `index` [rows, columns] or [rows, columns, 3]; YBR is converted to RGB.

    Raises:
        Exception: any error of the decoder; decoder errors have no common base class.

    """
    syntax = get_transfer_syntax(dataset)
    if syntax == DEFLATED_FRAMES or (syntax == RLELossless and dataset.BitsAllocated == 1):
        return pixel_array(_unpack_dataset(dataset, index, syntax), index=0)
    if syntax.is_encapsulated or "PixelData" not in dataset:
        return pixel_array(dataset, index=index)
    plain = _read_uncompressed_frame(dataset, index, syntax)
    values = pixel_array(dataset, index=index, correct_unused_bits=False) if plain is None else plain
    return _shift_to_stored_bits(values, dataset)


def _read_uncompressed_frame(dataset: Dataset, index: int, syntax: UID) -> npt.NDArray[Any] | None:
    """Return a view of an uncompressed integer grey frame in the pixel data, which is much faster than pydicom.

    Return None if the frame has another form or its header is inconsistent.
    """
    bits, data, signed = dataset.BitsAllocated, dataset.PixelData, dataset.PixelRepresentation
    if dataset.SamplesPerPixel != 1 or dataset.PhotometricInterpretation not in _SINGLE_CHANNEL or signed not in (0, 1):
        return None
    if not (bits == 16 or (bits == 8 and syntax.is_little_endian)) or not isinstance(data, bytes):
        return None
    shape = int(dataset.Rows), int(dataset.Columns)
    size, count = shape[0] * shape[1] * bits // 8, max(1, int(dataset.get("NumberOfFrames") or 1))
    if len(data) < size * count or not 0 <= index < count:
        return None
    kind = np.dtype(f"{'<' if syntax.is_little_endian else '>'}{'ui'[signed]}{bits // 8}")
    values = np.frombuffer(data, kind, shape[0] * shape[1], index * size).reshape(shape)
    return values.astype(kind.newbyteorder("="), copy=False)


def _shift_to_stored_bits(values: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """Remove the bits above and below the stored bits; keep the sign."""
    stored, allocated = int(dataset.BitsStored), 8 * values.dtype.itemsize
    if values.dtype.kind not in "iu" or dataset.BitsAllocated == 1 or stored >= allocated:
        return values
    high = int(dataset.get("HighBit", stored - 1))
    if not stored - 1 <= high < allocated:
        high = stored - 1
    return (values << (allocated - 1 - high)) >> (allocated - stored)


def _unpack_dataset(dataset: Dataset, index: int, syntax: UID) -> Dataset:
    """Return an uncompressed data set of one frame, for a compression that pydicom does not support."""
    packed = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    frame = copy(dataset)
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    frame.NumberOfFrames = 1
    unpack = _inflate_frame if syntax == DEFLATED_FRAMES else _unpack_rle
    pixels = unpack(packed, frame)
    frame.PixelData = pixels + b"\0" * (len(pixels) % 2)
    return frame


def _unpack_rle(packed: bytes, frame: Dataset) -> bytes:
    return bytes(rle.rle.decode_segment(packed[_RLE_HEADER:]))


def _inflate_frame(packed: bytes, frame: Dataset) -> bytes:
    bits = int(frame.Rows) * int(frame.Columns) * int(frame.get("SamplesPerPixel") or 1) * int(frame.BitsAllocated)
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, -(-bits // 8) + 1)


def _register_decoders() -> None:
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if _LABEL not in decoder.available_plugins:
            decoder.add_plugin(_LABEL, (__name__, decode_frame.__name__))


_register_decoders()
