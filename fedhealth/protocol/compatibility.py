"""Which releases work together: the same protocol and shared code, and at most one minor version apart.

Shared code is what lead and site must compute alike: messages, secure aggregation, the model's arrays, the summed
statistics. Its digest is part of every run's bundle, so a site declines a lead whose shared code differs, whatever its
version number says. The composed configuration is compared for each job (`compute_config_digest`).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fedhealth.protocol.messages import PROTOCOL_VERSION

SHARED_CODE = (  # below the package
    "consortium/signed_job.py",
    "evaluation",
    "models",
    "protocol",
    "secagg/primitives",
    "secagg/protocol",
    "statistics",
)
MINOR_WINDOW = 1  # minor versions by which lead and site may be apart
_PACKAGE = Path(__file__).resolve().parents[1]


def get_release() -> str:
    """Return the installed release of fedhealth."""
    return version("fedhealth")


def are_compatible_releases(one: str, other: str) -> bool:
    """Return whether two releases have the same major version and minor versions at most `MINOR_WINDOW` apart."""
    try:
        first, second = Version(one), Version(other)
    except InvalidVersion:
        return False
    return first.major == second.major and abs(first.minor - second.minor) <= MINOR_WINDOW


@lru_cache(maxsize=1)
def compute_shared_digest() -> str:
    """Return the digest of protocol version and shared code, hexadecimal."""
    return digest_shared_code(_PACKAGE)


def digest_shared_code(package: Path) -> str:
    """Return the digest of the shared code of the package in a folder, byte for byte, hexadecimal."""
    digest = hashlib.sha256(f"fedhealth shared code, protocol {PROTOCOL_VERSION}".encode())
    for place in SHARED_CODE:
        root = package / place
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\n{path.relative_to(package).as_posix()} {content}".encode())
    return digest.hexdigest()
