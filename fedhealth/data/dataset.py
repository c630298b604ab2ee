"""A site's cohort: everything training needs, memory-mapped from a cache that is built once.

The cache folder is named by a digest of the manifest's bytes, the data configuration, the texts and what the source
says of the images, and appears under its name only when complete. Nothing in it carries a patient's or a file's name,
except the list of rejected files that hospital IT needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import FILES, DataConfig, TaskKind
from fedhealth.data.image_source import Pictures, Progress, Rejected
from fedhealth.data.manifest import SPLITS, Manifest
from fedhealth.data.tabular import encode, width
from fedhealth.errors import DataError

CACHE_VERSION = 1
PUBLIC = "public"  # whose rows they are that belong to nobody
_NO_MEANING = ("name", "root", "cache", "sites", "public")  # settings that do not change a cohort


@dataclass(frozen=True)
class Cohort:
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
        rejected: image files set aside.
        warnings: what a person should know before training on it.

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
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]

    def rows(self, split: str, *, labelled: bool = True) -> np.ndarray:
        """Return the indices of the rows of `split`, by default those that have at least one label."""
        chosen = self.split == SPLITS.index(split)
        if labelled:
            chosen &= ~np.isnan(self.labels).all(axis=1)
        return np.flatnonzero(chosen)

    def counts(self) -> dict[str, int]:
        """Return how many rows, patients, labels and modalities there are, for the site's own eyes."""
        return {
            "rows": len(self.split),
            "patients": len(np.unique(self.patient)),
            "unlabelled": int(np.isnan(self.labels).all(axis=1).sum()),
            "image": int((self.image_index >= 0).sum()),
            "text": sum(map(bool, self.texts)),
            "tabular": int(self.tabular_present.sum()),
            "rejected": len(self.rejected),
        } | {split: len(self.rows(split, labelled=False)) for split in SPLITS}


def prepare(data: DataConfig, site: str, progress: Progress | None = None) -> Cohort:
    """Return `site`'s cohort, building its cache on the first call.

    Args:
        data: the data configuration.
        site: which site.
        progress: called with (images done, images in all) while decoding.

    Raises:
        DataError: what is wrong with manifest, images, tabular cells or labels, and where.

    """
    pictures: Pictures = instantiate(data.source)
    manifest = pictures.manifest(data, site)
    folder = Path(data.cache).expanduser() / site / _key(manifest, data, site, pictures.state(manifest))
    if not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _build(manifest, data, site, folder, pictures, progress or (lambda done, total: None))
    return load(folder, site)


def prepare_public(data: DataConfig) -> Cohort | None:
    """Return the public rows that every site trains on beside its own; None where the configuration has none.

    Raises:
        DataError: as for a site's own data.

    """
    if data.public.root is None:
        return None
    rows = replace(data, root=data.public.root, manifest=data.public.manifest, site_column=None, source=FILES)
    return prepare(rows, PUBLIC)


def load(folder: Path, site: str) -> Cohort:
    """Open a finished cache folder without decoding anything."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        arrays: dict[str, Any] = {name: rows[name] for name in rows.files}
    return Cohort(
        site=site,
        folder=folder,
        images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        texts=tuple(json.loads((folder / "texts.json").read_text("utf-8"))),
        rejected=tuple(Rejected(**entry) for entry in report["rejected"]),
        warnings=tuple(report["warnings"]),
        **arrays,
    )


def _key(manifest: Manifest, data: DataConfig, site: str, pictures: str) -> str:
    meaning = {name: value for name, value in asdict(data).items() if name not in _NO_MEANING}
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, site, meaning], sort_keys=True, default=str).encode())
    digest.update(manifest.path.read_bytes())
    digest.update(json.dumps(manifest.table["text"].tolist()).encode())  # they may lie in files of their own
    digest.update(pictures.encode())
    return digest.hexdigest()[:20]


def _is_whole(folder: Path) -> bool:
    """Tell whether a cache is there, with its images: an ingested cohort's may have been moved since."""
    return (folder / "report.json").is_file() and (folder / "images.npy").is_file()


def _build(
    manifest: Manifest, data: DataConfig, site: str, folder: Path, pictures: Pictures, progress: Progress
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    try:
        _fill(manifest, data, site, draft, pictures, progress)
        if not _is_whole(folder):  # another process may have built the same cache meanwhile
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(manifest: Manifest, data: DataConfig, site: str, draft: Path, pictures: Pictures, progress: Progress) -> None:
    table = manifest.table
    tabular, tabular_present = encode(table, data.tabular, manifest.path)
    slots, rejected = pictures.store(manifest, data, draft / "images.npy", progress)
    image_index = table["image"].map(lambda name: slots.get(name, -1)).to_numpy(np.int64)
    texts = table["text"].to_numpy(object)
    keep = (image_index >= 0) | (texts != "") | tabular_present
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
        "tabular": tabular,
        "tabular_present": tabular_present,
    }
    rows = {name: array[keep] for name, array in rows.items()}
    if not (rows["split"] == 0).any() or np.isnan(rows["labels"][rows["split"] == 0]).all():
        raise DataError(
            f"{manifest.path}: site {site!r} has no labelled training row.",
            "Label some rows, correct data.columns, or take the site out of data.sites.",
        )
    np.savez(draft / "rows.npz", allow_pickle=False, **rows)
    (draft / "texts.json").write_text(json.dumps(texts[keep].tolist()), "utf-8")
    warnings = _warnings(rows, data, site, dropped=int((~keep).sum()), rejected=len(rejected))
    report = {"rejected": [asdict(entry) for entry in rejected], "warnings": warnings}
    (draft / "report.json").write_text(json.dumps(report), "utf-8")


def _warnings(rows: dict[str, np.ndarray], data: DataConfig, site: str, dropped: int, rejected: int) -> list[str]:
    found = []
    train = rows["split"] == 0
    for column, name in enumerate(data.columns.labels):
        values = rows["labels"][train, column]
        classes = np.unique(values[~np.isnan(values)])
        if len(classes) == 1:
            label = (
                f"{name}={int(classes[0])}"
                if data.task.kind is TaskKind.multilabel
                else data.task.classes[int(classes[0])]
            )
            found.append(f"{site}: every labelled training row is of one class ({label}).")
    present = rows["tabular"][rows["tabular_present"]]
    start = 0
    for name, variable in data.tabular.items():
        size = width({name: variable})
        block = present[:, start : start + size]
        if len(present) > 1 and (block == block[0]).all():
            found.append(f"{site}: column {name!r} has the same value in every row.")
        start += size
    if dropped:
        found.append(f"{site}: {dropped} row(s) have no image, text or value and are left out.")
    if rejected:
        found.append(f"{site}: {rejected} unreadable image file(s) were set aside and count as missing.")
    return found
