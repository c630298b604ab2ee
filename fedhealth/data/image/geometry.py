"""Resize an image of any size to the cached square."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedhealth.data.image.grayscale import IntegerImage

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, like Pillow


def resize_and_pad(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Resize the long side to `size` with antialiasing; pad the short side.

    Args:
        image: mode L or RGB.
        size: side of the result in pixels.

    Returns:
        uint8 [channels, size, size].

    """
    small = np.asarray(_resize_image(image, _compute_fitted_sides(image.size, size)), dtype=np.uint8)
    return _pad_to_square(small.reshape(*small.shape[:2], -1), size)


def fit_to_square(
    picture: IntegerImage, size: int, channels: int, scale: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Fit an image to a square: like `resize_and_pad`, or resized by `scale` and cropped or padded around its centre.

    Args:
        picture: uint8 or uint16, [rows, columns] or [rows, columns, 3].
        size: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).
        scale: factor for rows and for columns; None fits the long side.

    Returns:
        of the same data type, [channels, size, size].

    """
    down, across = picture.shape[:2]
    sides = _compute_fitted_sides((across, down), size)
    if scale is not None:
        sides = (max(1, round(across * scale[1])), max(1, round(down * scale[0])))
    if picture.dtype == np.uint8:
        image, mode = Image.fromarray(picture), "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        small = np.asarray(_resize_image(image, sides, size)).reshape(*_crop_sides(sides, size)[::-1], -1)
    else:
        planes = [Image.fromarray(plane) for plane in _split_planes(picture, channels)]
        small = np.stack([np.asarray(_resize_image(plane, sides, size)) for plane in planes], axis=-1)
        small = np.rint(small).clip(0, 65535).astype(np.uint16)
    return _pad_to_square(small, size)


def _split_planes(picture: IntegerImage, channels: int) -> list[npt.NDArray[np.float32]]:
    values = picture.astype(np.float32)
    if values.ndim == 2:
        return [values] * channels
    return [values[..., plane] for plane in range(3)] if channels == 3 else [values @ _GREY]


def _compute_fitted_sides(sides: tuple[int, int], size: int) -> tuple[int, int]:
    scale = size / max(sides)
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def _crop_sides(sides: tuple[int, int], size: int) -> tuple[int, int]:
    return min(sides[0], size), min(sides[1], size)


def _resize_image(image: Image.Image, sides: tuple[int, int], size: int | None = None) -> Image.Image:
    """Resize to `sides` (width, height); compute only the central `size` pixels if there are more."""
    if size is None or max(sides) <= size:
        return image.resize(sides, Image.Resampling.BILINEAR)
    kept = _crop_sides(sides, size)
    whole = image.size
    part = [whole[axis] * kept[axis] / sides[axis] for axis in (0, 1)]
    left, top = ((whole[axis] - part[axis]) / 2 for axis in (0, 1))
    box = (left, top, left + part[0], top + part[1])
    return image.resize(kept, Image.Resampling.BILINEAR, box=box)


def _pad_to_square(small: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.uint8]:
    """Centre [rows, columns, channels] in a square; pad with the median of the image's border."""
    height, width, channels = small.shape
    if height == width == size:
        return np.ascontiguousarray(small.transpose(2, 0, 1))
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    canvas = np.empty((channels, size, size), dtype=small.dtype)
    canvas[:] = _compute_median(border)[:, None, None]
    top, left = (size - height) // 2, (size - width) // 2
    canvas[:, top : top + height, left : left + width] = small.transpose(2, 0, 1)
    return canvas


def _compute_median(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return `numpy.median` over the first axis, ten times faster for so few values."""
    ranked = np.sort(values, axis=0)
    return (ranked[(len(ranked) - 1) // 2].astype(np.float64) + ranked[len(ranked) // 2]) / 2.0
