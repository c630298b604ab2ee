"""Load an image file as a square uint8 array: DICOM, JPEG, PNG or TIFF, recognised by content."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fedhealth.config.windows import ValueWindow
from fedhealth.data.image import grayscale
from fedhealth.data.image.dicom import MAX_BYTES, MAX_PIXELS, is_dicom, read_dicom
from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.geometry import resize_and_pad
from fedhealth.errors import ConfigError

__all__ = ["ImageError", "load_image"]

_FORMATS = ("JPEG", "PNG", "TIFF")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # more than 8 bits a grey value


def load_image(path: Path, size: int, channels: int, windows: Sequence[ValueWindow] = ()) -> npt.NDArray[np.uint8]:
    """Read, orient, scale and pad one image.

    The aspect ratio is kept: stretching would change a heart-to-thorax ratio or a lesion's asymmetry, and a
    centre crop would remove findings near the border. The short side is padded on both sides with the median of
    the image's border (black around an X-ray, skin colour around a lesion), so that padding adds no edge.

    Args:
        path: the file.
        size: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB; a grey image is repeated).
        windows: for DICOM images with physical values; several give as many channels.

    Returns:
        uint8 [channels, size, size], 0 = black.

    Raises:
        ImageError: (a DataError) names the file and gives a short reason that quotes no patient data.

    """
    if channels not in (1, 3) or size < 1:
        raise ConfigError(
            f"no image has {channels} channels of {size} pixels", "Use 1 or 3 channels and a size above 0."
        )
    try:
        with guard_parsers():
            image = _decode_file(path, windows)
            return resize_and_pad(image.convert("L" if channels == 1 else "RGB"), size)
    except ImageError as fault:
        raise ImageError(fault.reason, fault.advice, path) from None
    except OSError as fault:
        reason = fault.strerror or "the file is truncated or damaged"  # Pillow raises OSError for damaged files too
        raise ImageError(reason, "Check that the file exists, is readable and complete.", path) from None
    except Exception:  # on damaged files the parsers raise almost any exception and quote the content
        raise ImageError("the file is damaged", "Export or copy the file again.", path) from None


@contextmanager
def guard_parsers() -> Iterator[None]:
    """Silence the parsers, whose warnings quote header values; raise Pillow's decompression-bomb warning."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logger.disabled = was_disabled


def _decode_file(path: Path, windows: Sequence[ValueWindow]) -> Image.Image:
    with path.open("rb") as file:
        length = file.seek(0, 2)
        if length == 0:
            raise ImageError("the file is empty", "Export or copy the file again.")
        if length > MAX_BYTES:
            raise ImageError("the file is larger than 1 GiB", "Export a smaller rendition.")
        file.seek(0)
        head = file.read(132)
        file.seek(0)
        if is_dicom(head):
            return Image.fromarray(read_dicom(file, windows))
        return _decode_picture(file)


def _decode_picture(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=_FORMATS)
        too_large = image.width * image.height > MAX_PIXELS
    except UnidentifiedImageError:
        raise ImageError("not a DICOM or image file", "Remove the file, or export it again.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large = True
    if too_large:
        raise ImageError(f"more pixels than the limit of {MAX_PIXELS // 10**6} million", "Export a smaller rendition.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _DEEP_MODES:
        values = np.asarray(upright, dtype=np.float32)
        return Image.fromarray(grayscale.to_integer(grayscale.stretch_contrast(values)))
    return upright
