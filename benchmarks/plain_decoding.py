"""A minimal decoder with pydicom and Pillow, for comparison: decode, resize and write each file."""

from __future__ import annotations

import multiprocessing
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array

import fedhealth.data.image.decoders  # noqa: F401 - the same pydicom plugins as in the ingest


def decode_all(images: Path, target: Path, size: int, workers: int) -> None:
    """Write the middle frame of each file below `images` to `target`, uint8 [files, 1, size, size]."""
    paths = sorted(images.rglob("*.dcm"))
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(paths), 1, size, size))
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        for _ in pool.imap_unordered(partial(_decode_file, target, size), enumerate(paths), chunksize=4):
            pass


def _decode_file(target: Path, size: int, numbered: tuple[int, Path]) -> None:
    """Decode a file's middle frame, stretch it to 8 bits, resize it, and write it at its index."""
    number, path = numbered
    warnings.simplefilter("ignore")
    try:
        dataset = dcmread(path, force=True)
        pixels = pixel_array(dataset, index=int(dataset.get("NumberOfFrames") or 1) // 2).astype(np.float32)
    except Exception:  # skip what pydicom cannot decode
        return
    low, high = pixels.min(), pixels.max()
    grey = ((pixels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    scale = size / max(grey.shape[:2])
    sides = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    small = np.asarray(Image.fromarray(grey).convert("L").resize(sides, Image.Resampling.BILINEAR))
    _open_output(target)[number, 0, : small.shape[0], : small.shape[1]] = small


@cache
def _open_output(target: Path) -> np.memmap:
    return np.lib.format.open_memmap(target, mode="r+")
