"""A cohort that `fedhealth site ingest` made: its rows, and its images as they lie there, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedhealth.config.schema import ColumnsConfig, DataConfig
from fedhealth.data.image_source import Progress, Rejected
from fedhealth.data.manifest import Manifest, read_manifest
from fedhealth.errors import DataError

ABOUT, MANIFEST = "cohort.json", "manifest.csv"
STRUCTURE = ("patient", "study", "image", "text", "split")
"""Columns of every ingested manifest, whatever the hospital or the consortium call them."""

_AGAIN = "Run `fedhealth site ingest` again; what is done is kept."


@dataclass(frozen=True)
class About:
    """What lies in an ingested folder.

    Attributes:
        manifest: SHA-256 of manifest.csv.
        images: name of the file of images, which holds their digest.

    """

    manifest: str
    images: str


def about(folder: Path) -> About:
    """Read what an ingest left.

    Raises:
        DataError: there is no finished ingest, or its manifest is another.

    """
    try:
        content = json.loads((folder / ABOUT).read_text("utf-8"))
        found = About(str(content["manifest"]), str(content["images"]))
        digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{folder}: there is no finished ingest.", _AGAIN) from fault
    if digest != found.manifest or not (folder / found.images).is_file():
        raise DataError(f"{folder}: manifest or images were changed after the ingest.", _AGAIN)
    return found


class Ingested:
    """An ingested folder as a source: `data.root`, or the folder of `data.manifest` below it."""

    def manifest(self, data: DataConfig, site: str) -> Manifest:
        """Read the folder's rows; labels and variables have the consortium's names."""
        folder = (Path(data.root).expanduser() / data.manifest.replace("{site}", site)).parent
        about(folder)
        patient, study, image, text, split = STRUCTURE
        columns = ColumnsConfig(patient, study, image, text, None, data.columns.labels, split)
        here = replace(data, root=str(folder), manifest=MANIFEST, site_column=None, columns=columns)
        return read_manifest(here, site)

    def state(self, manifest: Manifest) -> str:
        """Return the name of the file of images: their digest is in it."""
        return about(manifest.path.parent).images

    def store(
        self, manifest: Manifest, data: DataConfig, target: Path, progress: Progress
    ) -> tuple[dict[str, int], list[Rejected]]:
        """Point to the images; nothing is decoded or copied."""
        file = (manifest.path.parent / about(manifest.path.parent).images).resolve()
        images: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        wanted = (data.image.channels, data.image.size, data.image.size)
        if images.shape[1:] != wanted:
            raise DataError(
                f"{file}: the images are {_times(images.shape[1:])}, the configuration says {_times(wanted)}.", _AGAIN
            )
        target.symlink_to(file)
        progress(len(images), len(images))
        return {str(slot): slot for slot in range(len(images))}, []


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
