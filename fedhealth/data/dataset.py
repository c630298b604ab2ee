"""A site's dataset: everything training needs, memory-mapped from a cache that is built once.

The cache folder is named by a digest of the manifest's bytes, the data configuration, the texts and the source's
fingerprint of the images. It gets its final name only when it is complete. It holds no patient's or file's name,
except the list of rejected files that hospital IT needs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import FILES, DataConfig
from fedhealth.data.duplicates import count_duplicates, find_duplicate_findings
from fedhealth.data.findings import DataFinding, FindingKind, dump_findings, parse_findings, sort_findings
from fedhealth.data.image_source import ImageProgress, ImageSource, RejectedImage
from fedhealth.data.manifest import SPLITS, Manifest
from fedhealth.data.plausibility import find_cohort_findings
from fedhealth.data.tabular import encode_columns
from fedhealth.errors import DataError
from fedhealth.utils.digest import digest_parts
from fedhealth.utils.guarded_part import guard_part
from fedhealth.utils.user_path import expand_user

CACHE_VERSION = 3
PUBLIC = "public"  # site name of the public dataset, which belongs to no hospital
_NOT_IN_CACHE_KEY = ("name", "root", "cache", "sites", "public")  # settings that do not change a dataset


@dataclass(frozen=True)
class SiteDataset:
    """One site's prepared rows. N rows, M stored images, K label columns, F tabular features.

    Attributes:
        site: its name.
        folder: the cache folder; private to the site.
        patient: int64 [N], which patient (0..P-1) a row belongs to.
        study: int64 [N], which study; rows of one study share text, labs and label.
        split: int8 [N], index into `SPLITS`.
        labels: float32 [N, K]; NaN = missing.
        images: uint8 or uint16 [M, channels, size, size], memory-mapped; M may be 0.
        image_index: int64 [N], row of `images`; -1 = missing.
        texts: N strings; empty = missing.
        tabular: float32 [N, F].
        tabular_present: bool [N].
        rejected: image files that cannot be used.
        findings: for people at the hospital, to read before training on it.

    """

    site: str
    folder: Path
    patient: np.ndarray
    study: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    texts: tuple[str, ...]
    tabular: np.ndarray
    tabular_present: np.ndarray
    rejected: tuple[RejectedImage, ...]
    findings: tuple[DataFinding, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest, the texts, the images and the settings: the name of the cache folder."""
        return self.folder.name

    def rows(self, split: str, *, labelled: bool = True) -> np.ndarray:
        """Return the indices of the rows of `split`, by default those that have at least one label."""
        chosen = self.split == SPLITS.index(split)
        if labelled:
            chosen &= ~np.isnan(self.labels).all(axis=1)
        return np.flatnonzero(chosen)

    def counts(self) -> dict[str, int]:
        """Count rows, patients, labels and modalities. The counts are exact, so they must not leave the site."""
        return {
            "rows": len(self.split),
            "patients": len(np.unique(self.patient)),
            "unlabelled": int(np.isnan(self.labels).all(axis=1).sum()),
            "image": int((self.image_index >= 0).sum()),
            "text": sum(map(bool, self.texts)),
            "tabular": int(self.tabular_present.sum()),
            "rejected": len(self.rejected),
        } | {split: len(self.rows(split, labelled=False)) for split in SPLITS}


def prepare_dataset(data: DataConfig, site: str, progress: ImageProgress | None = None) -> SiteDataset:
    """Return `site`'s dataset; build its cache on the first call.

    Args:
        data: the data configuration.
        site: which site.
        progress: called with (images done, images in total) while decoding.

    Raises:
        DataError: a fault in the manifest, the images, the tabular cells or the labels, with its location.

    """
    source: ImageSource = guard_part(instantiate(data.source), ImageSource)
    manifest = source.load_manifest(data, site)
    folder = _find_cache_folder(source, manifest, data, site)
    if not _is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _build_cache(manifest, data, site, folder, source, progress or (lambda done, total: None))
    return load_dataset(folder, site)


def compute_dataset_digest(data: DataConfig, site: str) -> str:
    """Return the digest that the prepared dataset of `site` has, its public rows included; nothing is decoded.

    Raises:
        DataError: a fault in the manifest.

    """
    digests = []
    for each, name in ((data, site), *([(rows, PUBLIC)] if (rows := _get_public_config(data)) else [])):
        source: ImageSource = guard_part(instantiate(each.source), ImageSource)
        digests.append(_find_cache_folder(source, source.load_manifest(each, name), each, name).name)
    return "-".join(digests)


def prepare_public_dataset(data: DataConfig) -> SiteDataset | None:
    """Return the public dataset that every site adds to its training rows; None if none is configured.

    Raises:
        DataError: as for a site's own data.

    """
    rows = _get_public_config(data)
    return None if rows is None else prepare_dataset(rows, PUBLIC)


def _get_public_config(data: DataConfig) -> DataConfig | None:
    """Return the description of the public dataset; None if none is configured."""
    if data.public.root is None:
        return None
    return replace(data, root=data.public.root, manifest=data.public.manifest, site_column=None, source=FILES)


def _find_cache_folder(source: ImageSource, manifest: Manifest, data: DataConfig, site: str) -> Path:
    return expand_user(data.cache) / site / _compute_cache_key(manifest, data, site, source.fingerprint(manifest))


def load_dataset(folder: Path, site: str) -> SiteDataset:
    """Open a complete cache folder; nothing is decoded."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        arrays: dict[str, Any] = {name: rows[name] for name in rows.files}
    return SiteDataset(
        site=site,
        folder=folder,
        images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        texts=tuple(json.loads((folder / "texts.json").read_text("utf-8"))),
        rejected=tuple(RejectedImage(**entry) for entry in report["rejected"]),
        findings=parse_findings(report["findings"]),
        **arrays,
    )


def _compute_cache_key(manifest: Manifest, data: DataConfig, site: str, images: str) -> str:
    settings = {name: value for name, value in asdict(data).items() if name not in _NOT_IN_CACHE_KEY}
    return digest_parts(
        b"fedhealth data cache 2",
        json.dumps([CACHE_VERSION, site, settings], sort_keys=True, default=str).encode(),
        manifest.path.read_bytes(),
        json.dumps(manifest.table["text"].tolist()).encode(),  # texts may be in separate files
        json.dumps(dump_findings(manifest.findings)).encode(),
        images.encode(),
    ).hex()[:20]


def _is_complete(folder: Path) -> bool:
    """Tell whether a cache and its images exist (the images of an ingested dataset may have been moved)."""
    return (folder / "report.json").is_file() and (folder / "images.npy").is_file()


def _build_cache(
    manifest: Manifest, data: DataConfig, site: str, folder: Path, source: ImageSource, progress: ImageProgress
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    try:
        _write_cache(manifest, data, site, draft, source, progress)
        if not _is_complete(folder):  # another process may have built the same cache meanwhile
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_cache(
    manifest: Manifest, data: DataConfig, site: str, draft: Path, source: ImageSource, progress: ImageProgress
) -> None:
    table = manifest.table
    encoded = encode_columns(table, data.tabular, manifest.path, data.decimal, data.faulty_cells)
    images = source.write_images(manifest, data, draft / "images.npy", progress)
    image_index = table["image"].map(lambda name: images.slots.get(name, -1)).to_numpy(np.int64)
    texts = table["text"].to_numpy(object)
    keep = (image_index >= 0) | (texts != "") | encoded.present
    if not keep.any():
        raise DataError(
            f"{manifest.path}: no row of {site!r} has an image, a text or a value.",
            "Check data.columns and data.tabular.",
        )
    rows = {
        "patient": np.unique(table["patient"], return_inverse=True)[1],
        "study": np.unique(table["study"], return_inverse=True)[1],
        "split": table["split"].map(SPLITS.index).to_numpy(np.int8),
        "labels": manifest.labels,
        "image_index": image_index,
        "tabular": encoded.features,
        "tabular_present": encoded.present,
    }
    rows = {name: array[keep] for name, array in rows.items()}
    _require_training_labels(rows, site, manifest.path)
    np.savez(draft / "rows.npz", allow_pickle=False, **rows)
    (draft / "texts.json").write_text(json.dumps(texts[keep].tolist()), "utf-8")
    unused = _find_unused(int((~keep).sum()), len(images.rejected))
    findings = sort_findings(
        [
            *(*manifest.findings, *encoded.findings, *_find_copies(table, images.digests)),
            *(*find_cohort_findings(rows, texts[keep].tolist(), data), *unused),
        ]
    )
    report = {"rejected": [asdict(entry) for entry in images.rejected], "findings": dump_findings(findings)}
    (draft / "report.json").write_text(json.dumps(report), "utf-8")


def _find_copies(table: pd.DataFrame, digests: Mapping[str, str]) -> Iterator[DataFinding]:
    """Yield findings about equal images; a row's image is named by its file, so one file may be named twice."""
    named = zip(table["image"], table["patient"], table["split"], strict=True)
    seen = {(digests[image], patient, split) for image, patient, split in named if image in digests}
    copies = count_duplicates(seen)
    files = len(digests) - len(set(digests.values()))
    yield from find_duplicate_findings("images", replace(copies, images=files))


def _find_unused(rows: int, images: int) -> Iterator[DataFinding]:
    if rows:
        text = f"{rows} row(s) have no image, text or value and are ignored."
        yield DataFinding(FindingKind.tables, text)
    if images:
        text = f"{images} unreadable image file(s) were rejected and count as missing."
        yield DataFinding(FindingKind.files, text)


def _require_training_labels(rows: dict[str, np.ndarray], site: str, path: Path) -> None:
    train = rows["split"] == 0
    if not train.any() or np.isnan(rows["labels"][train]).all():
        raise DataError(
            f"{path}: site {site!r} has no labelled training row.",
            "Label some rows, correct data.columns, or remove the site from data.sites.",
        )
