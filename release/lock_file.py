"""Read the lock files of a release: pinned versions, each with the hashes of its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class LockedPackage:
    """One entry of a lock file.

    Attributes:
        name: of the distribution, canonical.
        version: the only allowed one.
        is_needed: whether this machine and this Python need it (the entry's marker).
        hashes: of the files that may be installed, `sha256:...`.

    """

    name: str
    version: str
    is_needed: bool
    hashes: tuple[str, ...]


def read_lock(path: Path) -> list[LockedPackage]:
    """Return the entries of a lock file, in its order.

    Raises:
        InvalidRequirement: a line is not a requirement.
        ValueError: an entry does not pin exactly one version.

    """
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    entries = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [_parse_entry(entry) for entry in entries if entry.strip()]


def _parse_entry(entry: str) -> LockedPackage:
    wanted = Requirement(entry.partition("--hash")[0].strip())
    pins = [each for each in wanted.specifier if each.operator == "=="]
    if len(pins) != 1 or len(wanted.specifier) != 1:
        raise ValueError(f"{wanted} does not pin one version.")
    needed = wanted.marker is None or wanted.marker.evaluate()
    return LockedPackage(canonicalize_name(wanted.name), pins[0].version, needed, tuple(_HASH.findall(entry)))


def find_missing_hashes(path: Path) -> list[str]:
    """Return the names of entries without a hash."""
    return [each.name for each in read_lock(path) if not each.hashes]
