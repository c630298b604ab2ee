"""Digest a folder of configuration files: what was composed from it before an edit is not used after."""

from __future__ import annotations

from pathlib import Path

from fedhealth.utils.digest import digest_parts

_LABEL = b"fedhealth/configuration folder"


def digest_config_folder(folder: Path | None) -> bytes:
    """Return the digest of the names and contents of all YAML files below `folder`; empty for no folder."""
    if folder is None:
        return b""
    files = sorted(path for path in folder.rglob("*.yaml") if path.is_file())
    parts = (part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes()))
    return digest_parts(_LABEL, *parts)
