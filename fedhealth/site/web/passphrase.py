"""The passphrase of people who decide on the page: set on the command line, stored as a scrypt hash (RFC 7914)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import AfterValidator

from fedhealth.errors import ConfigError, TrustError
from fedhealth.site.home import SiteHome
from fedhealth.utils.json_model import decode_hex, parse_model
from fedhealth.utils.private_files import make_private_folder, read_private_file, write_private_file

SHORTEST = 12  # characters
_COST, _BLOCK, _PARALLEL, _BYTES = 2**16, 8, 1, 32  # 64 MB and about .2 s for each guess
_HIGHEST_COST = 2**20  # 1 GB
_MOST_FAILURES, _PAUSE_SECONDS = 5, 900.0


def _check_cost(cost: int) -> int:
    if not 1 < cost <= _HIGHEST_COST or cost & (cost - 1):
        raise ValueError(f"expected a power of 2, at most {_HIGHEST_COST}")
    return cost


@dataclass(frozen=True)
class _StoredHash:
    salt: Annotated[bytes, decode_hex(16)]
    cost: Annotated[int, AfterValidator(_check_cost)]
    hash: Annotated[bytes, decode_hex(_BYTES)]


class PassphraseRefusedError(TrustError):
    """A passphrase was wrong, or too many were."""


def get_passphrase_path(home: SiteHome) -> Path:
    """Return the file of the hash."""
    return home.keys / "web-passphrase.json"


def set_passphrase(home: SiteHome, text: str) -> None:
    """Store the hash of a passphrase; an earlier one no longer works.

    Raises:
        ConfigError: it is too short.

    """
    if len(text) < SHORTEST:
        raise ConfigError(f"The passphrase has fewer than {SHORTEST} characters.", "Take four or more random words.")
    salt = os.urandom(16)
    make_private_folder(home.keys)
    content = {"salt": salt.hex(), "cost": _COST, "hash": _make_kdf(salt, _COST).derive(text.encode()).hex()}
    write_private_file(get_passphrase_path(home), json.dumps(content).encode())


class PassphraseGate:
    """Check passphrases, one at a time; after a few wrong ones nobody may try for a while.

    Args:
        home: the hospital's folder.
        clock: seconds, never going back.

    """

    def __init__(self, home: SiteHome, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._lock = get_passphrase_path(home), clock, threading.Lock()
        self._failures: list[float] = []

    def check_passphrase(self, text: str) -> None:
        """Return if the passphrase is right.

        Raises:
            PassphraseRefusedError: it is wrong, none was set, or too many were wrong.

        """
        if not self._path.is_file():
            raise PassphraseRefusedError("No passphrase was set.", "Run `fedhealth site passphrase` on this machine.")
        with self._lock:
            now = self._clock()
            self._failures = [each for each in self._failures if now - each < _PAUSE_SECONDS]
            if len(self._failures) >= _MOST_FAILURES:
                raise PassphraseRefusedError("Too many wrong passphrases.", "Wait a quarter of an hour.")
            if not self._is_right(text):
                self._failures.append(now)
                raise PassphraseRefusedError("The passphrase is wrong.", "Nothing was changed.")
            self._failures.clear()

    def _is_right(self, text: str) -> bool:
        content, advice = read_private_file(self._path), "Run `fedhealth site passphrase` again."
        stored = parse_model(content, _StoredHash, str(self._path), advice)
        try:
            _make_kdf(stored.salt, stored.cost).verify(text.encode(), stored.hash)
        except InvalidKey:
            return False
        return True


def _make_kdf(salt: bytes, cost: int) -> Scrypt:
    return Scrypt(salt=salt, length=_BYTES, n=cost, r=_BLOCK, p=_PARALLEL)
