"""The site's audit log: what left, what was refused, who was believed. Hash-chained, on the disk first.

Entries hold names, numbers and digests, never data. Several processes of the site may write.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.signatures import canonical, is_signed, parse_json, sign
from fedhealth.errors import TrustError
from fedhealth.utils import hash_chain
from fedhealth.utils.private_files import make_folder, write_secret

PURPOSE = "audit export"
Entries = tuple[dict[str, Any], ...]
_ADVICE = "Keep the files as they are and find out who changed them; start no run meanwhile."


class AuditLog:
    """One site's log; `write` may be called from any of its processes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def write(self, event: str, **fields: object) -> None:
        """Append an entry; it is on the disk when this returns.

        Raises:
            TrustError: the log was edited, cut or damaged; nothing may leave then.

        """
        make_folder(self._path.parent)
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            hash_chain.begin(self._path)
            end = hash_chain.tail(self._path)
            body = {"number": end.number + 1, "time": round(self._clock(), 3), "event": event, **fields}
            hash_chain.append(self._path, end, body)
        except hash_chain.BrokenChainError as fault:
            raise _broken(self._path, fault) from fault
        finally:
            os.close(handle)


def verify(path: Path) -> Entries:
    """Read and check a log; one that was never begun is empty.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return _read(path)[0]


def digest_of(path: Path) -> str:
    """Return the hash of a log's last entry: a digest of all of it, to be kept in another place.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return _read(path)[1]


def counts(path: Path) -> Counter[str]:
    """Return how often each event is in a log.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    return Counter(str(entry["event"]) for entry in verify(path))


def export(path: Path, target: Path, site: str, identity: Ed25519PrivateKey) -> str:
    """Write a log, signed by the site's identity, to a file for auditors; return its digest.

    Raises:
        TrustError: it was edited, cut or damaged.

    """
    entries, digest = _read(path)
    body = {"site": site, "digest": digest, "entries": list(entries)}
    signature = sign(identity, PURPOSE, canonical(body)).hex()
    write_secret(target, canonical({**body, "signature": signature}))
    return digest


def verify_export(content: bytes, identity: bytes) -> Entries:
    """Check a file that `export` wrote against the site's public key and return its entries.

    Raises:
        TrustError: another site's, edited, or no export.

    """
    fields = parse_json(content, "The export", 2**30)
    proof = str(fields.pop("signature", "")) if isinstance(fields, dict) else ""
    genuine = len(proof) == 128 and all(letter in "0123456789abcdef" for letter in proof)
    if not genuine or not is_signed(identity, bytes.fromhex(proof), PURPOSE, canonical(fields)):
        raise TrustError(
            "The export is not signed by this site's identity, or was edited.", "Ask the site for it again."
        )
    return tuple(fields["entries"])


def _read(path: Path) -> tuple[Entries, str]:
    if not path.exists() and not hash_chain.head_path(path).exists():
        return (), hash_chain.START
    try:
        entries, end = hash_chain.recover(path)
    except hash_chain.BrokenChainError as fault:
        raise _broken(path, fault) from fault
    return tuple(entries), end.digest


def _broken(path: Path, fault: hash_chain.BrokenChainError) -> TrustError:
    return TrustError(f"The audit log {path} was edited, cut or damaged: {fault}.", _ADVICE)
