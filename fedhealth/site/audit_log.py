"""The site's audit log: what left, what was refused, whose jobs were accepted.

It is hash-chained, and an entry is on disk before data leaves. Entries hold names, numbers and digests, never data.
Several processes of the site may write.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.signed_document import parse_document, sign_document
from fedhealth.errors import TrustError
from fedhealth.utils import hash_chain
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.private_files import make_private_folder, write_private_file

PURPOSE = "audit export"
AuditEntries = tuple[Mapping[str, Any], ...]
_ADVICE = "Do not change or delete the files. Find out who changed them before you start the site again."


class AuditLog:
    """One site's log; `write` may be called from any of its processes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def write(self, event: str, **fields: object) -> None:
        """Append an entry; it is on disk when this returns.

        Raises:
            TrustError: the log was edited, cut or damaged; then nothing may leave.

        """
        make_private_folder(self._path.parent)
        with lock_file(self._path.with_suffix(".lock")):
            try:
                hash_chain.create_chain(self._path)
                end = hash_chain.read_tail(self._path)
                body = {"number": end.number + 1, "time": round(self._clock(), 3), "event": event, **fields}
                hash_chain.append_entry(self._path, end, body)
            except hash_chain.BrokenChainError as fault:
                raise _make_tampering_error(self._path, fault) from fault


def verify_log(path: Path) -> AuditEntries:
    """Read a log and verify its hash chain; a log that does not exist yet is empty.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return _read_log(path)[0]


def get_log_digest(path: Path) -> str:
    """Return the hash of a log's last entry: a digest of the whole log, to be stored in another place.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return _read_log(path)[1]


def count_events(path: Path) -> Counter[str]:
    """Return the number of entries for each event.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return Counter(str(entry["event"]) for entry in verify_log(path))


def export_log(path: Path, target: Path, site: str, identity: Ed25519PrivateKey) -> str:
    """Write a log, signed by the site's identity, to a file for auditors; return its digest.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    entries, digest = _read_log(path)
    body = {"site": site, "digest": digest, "entries": list(entries)}
    write_private_file(target, sign_document(body, PURPOSE, identity))
    return digest


def verify_export(content: bytes, identity: bytes) -> AuditEntries:
    """Verify a file that `export_log` wrote against the site's public key and return its entries.

    Raises:
        TrustError: it is no export, was edited, or is another site's.

    """
    return tuple(parse_document(content, PURPOSE, identity, "audit export")["entries"])


def _read_log(path: Path) -> tuple[AuditEntries, str]:
    if not path.exists() and not hash_chain.get_head_path(path).exists():
        return (), hash_chain.START
    try:
        entries, end = hash_chain.load_chain(path)
    except hash_chain.BrokenChainError as fault:
        raise _make_tampering_error(path, fault) from fault
    return tuple(entries), end.digest


def _make_tampering_error(path: Path, fault: hash_chain.BrokenChainError) -> TrustError:
    return TrustError(f"The audit log {path} was edited, cut or damaged: {fault}.", _ADVICE)
