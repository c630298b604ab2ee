"""Image source `ingested`: a dataset written by `fedhealth site ingest`; its images are memory-mapped in place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedhealth.config.schema import ColumnsConfig, DataConfig
from fedhealth.data.findings import DataFinding, parse_findings
from fedhealth.data.image_source import ImageProgress, WrittenImages
from fedhealth.data.manifest import Manifest, read_manifest
from fedhealth.errors import DataError
from fedhealth.utils.user_path import expand_user

INFO_FILE, MANIFEST_FILE = "cohort.json", "manifest.csv"
STRUCTURE_COLUMNS = ("patient", "study", "image", "text", "split")
"""Columns of every ingested manifest; they do not depend on the hospital's or the consortium's column names."""

_AGAIN = "Run `fedhealth site ingest` again; it reuses what is already done."


@dataclass(frozen=True)
class IngestInfo:
    """Description of an ingested folder, from its cohort.json.

    Attributes:
        manifest: SHA-256 of manifest.csv.
        images: name of the image file; the name contains the images' digest.
        findings: what a person must know of the cohort; those of its rows are added when it is loaded.

    """

    manifest: str
    images: str
    findings: tuple[DataFinding, ...] = ()


def read_ingest_info(folder: Path, file: str = INFO_FILE) -> IngestInfo:
    """Read and check the description of an ingested folder.

    Args:
        folder: of the cohort.
        file: name of the description; an ingest that has not finished has another one.

    Raises:
        DataError: there is no complete ingest, or its manifest was changed.

    """
    try:
        content = json.loads((folder / file).read_text("utf-8"))
        findings = parse_findings(content["findings"])
        found = IngestInfo(str(content["manifest"]), str(content["images"]), findings)
        digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{folder}: there is no complete ingest.", _AGAIN) from fault
    if digest != found.manifest or not (folder / found.images).is_file():
        raise DataError(f"{folder}: manifest or images were changed after the ingest.", _AGAIN)
    return found


@dataclass(frozen=True)
class IngestedDataset:
    """An ingested folder as an image source: `data.root`, or the folder of `data.manifest` below it.

    Args:
        info: name of the file that describes the folder.

    """

    info: str = INFO_FILE

    def load_manifest(self, data: DataConfig, site: str) -> Manifest:
        """Read the folder's rows; labels and variables use the consortium's names."""
        folder = (expand_user(data.root) / data.manifest.replace("{site}", site)).parent
        info = read_ingest_info(folder, self.info)
        patient, study, image, text, split = STRUCTURE_COLUMNS
        columns = ColumnsConfig(patient, study, image, text, None, data.columns.labels, split)
        here = replace(data, root=str(folder), manifest=MANIFEST_FILE, site_column=None, columns=columns)
        manifest = read_manifest(here, site)
        return replace(manifest, findings=(*info.findings, *manifest.findings))

    def fingerprint(self, manifest: Manifest) -> str:
        """Return the name of the image file, which contains the images' digest."""
        return read_ingest_info(manifest.path.parent, self.info).images

    def write_images(
        self, manifest: Manifest, data: DataConfig, target: Path, progress: ImageProgress
    ) -> WrittenImages:
        """Link to the image file; nothing is decoded or copied."""
        file = (manifest.path.parent / read_ingest_info(manifest.path.parent, self.info).images).resolve()
        images: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        wanted = (data.image.channels, data.image.size, data.image.size)
        if images.shape[1:] != wanted:
            raise DataError(
                f"{file}: the images are {_format_shape(images.shape[1:])}, "
                f"the configuration requires {_format_shape(wanted)}.",
                _AGAIN,
            )
        target.symlink_to(file)
        progress(len(images), len(images))
        return WrittenImages({str(slot): slot for slot in range(len(images))})


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
