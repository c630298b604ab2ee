"""Caches of a site: decoded images, tokens and features of frozen encoders, a folder for each state of the data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import NotReadyError
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy
from fedhealth.utils.user_path import expand_user

_DEFAULT = "~/.cache/fedhealth"
_MARK = "rows.npz"  # what every cached data set has


@dataclass(frozen=True)
class CachedDataset:
    """One state of one data set, as it is cached.

    Attributes:
        folder: its folder.
        parts: names of the cached arrays.
        megabytes: its size.
        changed: seconds since 1970.

    """

    folder: Path
    parts: tuple[str, ...]
    megabytes: float
    changed: float


def list_cached_datasets(policy: Policy) -> list[CachedDataset]:
    """Return everything that is cached for this site, the oldest first."""
    default = expand_user(os.environ.get("FEDHEALTH_CACHE") or _DEFAULT)
    roots = {source.cache or default for source in policy.data.values()} | {default}
    marks = [mark for root in roots for mark in (root / policy.name).glob(f"*/{_MARK}")]
    return sorted(map(_describe_folder, {mark.parent.resolve() for mark in marks}), key=lambda each: each.changed)


def purge_cached_datasets(home: SiteHome, cached: Iterable[CachedDataset]) -> None:
    """Delete caches; what is needed again is decoded and computed again.

    Raises:
        NotReadyError: the site works on a task, which may use them.

    """
    if DaemonState(home).status["state"] == "working":
        raise NotReadyError("The site works on a task.", "Pause it, wait until it is idle, and try again.")
    for each in cached:
        shutil.rmtree(each.folder)


def _describe_folder(folder: Path) -> CachedDataset:
    files = [path for path in folder.rglob("*") if path.is_file()]
    parts = sorted(path.stem for path in files if path.suffix in (".npy", ".npz"))
    size = sum(path.stat().st_size for path in files)
    return CachedDataset(folder, tuple(parts), size / 1e6, max(path.stat().st_mtime for path in files))
