"""Put a release together: packages, locks, bills of materials, licences, units, containers, schemas, documents."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedhealth.utils.minisign import format_public_key, sign_file
from fedhealth.utils.private_files import load_signing_key
from fedhealth.version import __version__
from release.archive import hash_file, write_archive, write_checksums
from release.bill_of_materials import build_bill
from release.components import Component, list_components
from release.provenance import build_provenance
from release.schemas import write_schemas
from release.source import build_packages, export_commit

SIDES = ("site", "site-sources", "lead")
_COPIED = {  # of the commit, to a folder of the archive
    "scripts/install.sh": ".",
    "scripts/setup.yaml": ".",
    "scripts/fedhealth-site.service": "systemd",
    "scripts/fedhealth-lead.service": "systemd",
    "scripts/start-site.sh": "systemd",
    "scripts/start-lead.sh": "systemd",
    "LICENSE": ".",
    "CHANGELOG.md": ".",
    "README.md": ".",
}


def build_release(repository: Path, out: Path, signing_key: Path | None) -> Path:
    """Build the archive of the current commit; return its path.

    Args:
        repository: a git clone; uncommitted changes are not part of the release.
        out: folder to write to: the archive, and with a key its signature and the public key.
        signing_key: an Ed25519 key, 32 bytes, readable by its owner only.

    Raises:
        FedhealthError: no git clone, another environment than that of the locks, or a damaged key.

    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedhealth-release-") as scratch:
        source, folder = Path(scratch) / "source", Path(scratch) / f"fedhealth-{__version__}"
        commit, epoch = export_commit(repository, source)
        folder.mkdir()
        packages = build_packages(source, folder, epoch)
        _copy_files(source, folder)
        _write_bills(folder, packages[0], epoch)
        write_schemas(folder / "schemas")
        locks = {f"{side}.lock": hash_file(folder / f"{side}.lock") for side in SIDES}
        statement = build_provenance(commit, epoch, {path.name: hash_file(path) for path in packages}, locks)
        _write_json(folder / "provenance.json", statement)
        write_checksums(folder)
        archive = out / f"fedhealth-{__version__}-release.tar.gz"
        write_archive(folder, archive, epoch)
    if signing_key:
        _sign_archive(archive, signing_key, commit)
    return archive


def _copy_files(source: Path, folder: Path) -> None:
    for name, place in _COPIED.items():
        (folder / place).mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / place / Path(name).name)
    for side in SIDES:
        shutil.copyfile(source / "locks" / f"{side}.lock", folder / f"{side}.lock")
    for name in ("docs", "container"):
        shutil.copytree(source / name, folder / name)


def _write_bills(folder: Path, wheel: Path, epoch: int) -> None:
    everything: dict[str, Component] = {}
    for side in SIDES:
        components = list_components(folder / f"{side}.lock")
        everything |= {each.name: each for each in components}
        bill = build_bill(side, __version__, hash_file(wheel), epoch, components)
        _write_json(folder / f"sbom-{side}.cdx.json", bill)
    (folder / "LICENCES.txt").write_text(_format_licences([everything[name] for name in sorted(everything)]), "utf-8")


def _format_licences(components: Sequence[Component]) -> str:
    table = [f"{each.name} {each.version}: {'; '.join(each.licences)}" for each in components]
    texts = [
        f"{'=' * 80}\n{each.name} {each.version}\n\n" + "\n\n".join(each.texts) for each in components if each.texts
    ]
    return "\n".join(["Packages that this release installs, and their licences.", "", *table, "", *texts, ""])


def _sign_archive(archive: Path, signing_key: Path, commit: str) -> None:
    key = load_signing_key(signing_key)
    text = sign_file(key, archive, f"{archive.name} commit {commit}")
    archive.with_name(f"{archive.name}.minisig").write_text(text, "utf-8")
    public = format_public_key(key.public_key().public_bytes_raw())
    (archive.parent / "fedhealth.pub").write_text(public, "utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
