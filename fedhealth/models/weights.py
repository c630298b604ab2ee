"""Find pretrained weights: by path, or by file name in one folder of this machine.

A job names weights by file name only; each hospital sets the folder with `resources.weights` in its site.yaml. A study
holds their digests, so that a hospital notices a file that was replaced.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from fedhealth.utils.digest import digest_parts
from fedhealth.utils.user_path import expand_user

WEIGHTS_ENV = "FEDHEALTH_WEIGHTS"


def find_weights(name: str) -> Path:
    """Return the path of a file or folder of weights; it may not exist."""
    return _join_name(name, os.environ.get(WEIGHTS_ENV))


def set_weights_folder(folder: Path | None) -> None:
    """Set the folder of weights that are named without a folder; None selects the working directory."""
    os.environ[WEIGHTS_ENV] = str(folder or "")


def compute_weights_digest(name: str, folder: Path | None) -> str:
    """Return the SHA-256 of a file of weights, or of all files in a folder of them; empty if there is none.

    Args:
        name: as in the configuration.
        folder: of weights that are named without a folder; None for the working directory.

    """
    root = _join_name(name, folder)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    return digest_parts(b"fedhealth weights 1", *_iter_digests(root, files)).hex() if files else ""


def find_other_weights(digests: Mapping[str, str], folder: Path | None) -> list[str]:
    """Return the names of weights that do not have the given digest on this machine; `folder` as above."""
    return [name for name, digest in digests.items() if compute_weights_digest(name, folder) != digest]


def _join_name(name: str, folder: Path | str | None) -> Path:
    path = expand_user(name)
    return Path(folder) / name if folder and path.name == name else path


def _iter_digests(root: Path, files: list[Path]) -> Iterator[bytes]:
    for path in files:
        about = path.stat()
        yield path.relative_to(root).as_posix().encode()
        yield _digest_file(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=256)
def _digest_file(path: Path, *identity: int) -> bytes:
    """Return a file's SHA-256; what identifies its content on this machine is part of the cache key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
