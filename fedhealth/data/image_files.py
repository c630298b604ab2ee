"""Image source `files`: a manifest with image files beside it (DICOM, JPEG, PNG or TIFF), decoded in this process."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from fedhealth.config.schema import DataConfig
from fedhealth.config.windows import parse_windows
from fedhealth.data.find_file import find_file
from fedhealth.data.image_source import ImageProgress, RejectedImage, WrittenImages
from fedhealth.data.manifest import Manifest, read_manifest
from fedhealth.errors import DataError


class ImageFiles:
    """Image files below `data.root`; a changed file is detected by its size and modification time."""

    def load_manifest(self, data: DataConfig, site: str) -> Manifest:
        """Read the table that `data.manifest` names."""
        return read_manifest(data, site)

    def fingerprint(self, manifest: Manifest) -> str:
        """Return each file's size and modification time."""
        stamps = []
        for name in _list_files(manifest):
            file = find_file(manifest.path.parent, name)
            stamp = (file.stat().st_size, file.stat().st_mtime_ns) if file else "absent"
            stamps.append(f"{name}|{stamp}\n")
        return "".join(stamps)

    def write_images(
        self, manifest: Manifest, data: DataConfig, target: Path, progress: ImageProgress
    ) -> WrittenImages:
        """Decode every image file once, in order."""
        files = _list_files(manifest)
        shape = (len(files), data.image.channels, data.image.size, data.image.size)
        images = open_memmap(target, mode="w+", dtype=np.uint8, shape=shape) if files else np.zeros(shape, np.uint8)
        if not files:
            np.save(target, images, allow_pickle=False)

        windows = parse_windows(data.image.window)
        digests: dict[str, str] = {}

        def decode(slot: int) -> RejectedImage | None:
            from fedhealth.data.image.load import load_image  # with pydicom, which tables alone do not need

            try:
                file = find_file(manifest.path.parent, files[slot]) or manifest.path.parent / files[slot]
                images[slot] = load_image(file, data.image.size, data.image.channels, windows)
            except DataError as fault:
                return RejectedImage(files[slot], fault.problem)
            digests[files[slot]] = hashlib.sha256(images[slot].tobytes()).hexdigest()
            return None

        rejected: list[RejectedImage] = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done, fault in enumerate(pool.map(decode, range(len(files))), start=1):
                rejected += [fault] if fault else []
                progress(done, len(files))
        _check_rejected_share(rejected, len(files), data.max_rejected, manifest.path)
        bad = {entry.path for entry in rejected}
        slots = {name: slot for slot, name in enumerate(files) if name not in bad}
        return WrittenImages(slots, tuple(rejected), digests)


def _list_files(manifest: Manifest) -> list[str]:
    return sorted(set(manifest.table["image"]) - {""})


def _check_rejected_share(rejected: list[RejectedImage], total: int, limit: float, path: Path) -> None:
    if len(rejected) > limit * total:
        shown = "\n".join(f"  {entry.reason}" for entry in rejected[:5])
        more = f"\n  and {len(rejected) - 5} more" if len(rejected) > 5 else ""
        raise DataError(
            f"{path}: {len(rejected)} of {total} image files are unreadable:\n{shown}{more}",
            f"Repair or remove them, or raise data.max_rejected (now {limit:g}) to train without them.",
        )
