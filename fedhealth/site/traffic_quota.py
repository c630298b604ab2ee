"""How many bytes have left in each round of a run: a small file, so that every process of the site counts alike."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from fedhealth.protocol.messages import Directive
from fedhealth.utils.atomic_io import read_json, write_json
from fedhealth.utils.private_files import make_folder


@dataclass(frozen=True)
class Traffic:
    """One run's counter.

    Attributes:
        folder: of the run, private.
        most: bytes in one round, all attempts together.

    """

    folder: Path
    most: int

    def allows(self, directive: Directive, size: int) -> bool:
        """Count an answer if the round has room for it; tell whether it has."""
        make_folder(self.folder)
        path, key = self.folder / "traffic.json", str(directive.round)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            sent = dict(read_json(path) or {})
            total = sent.get(key, 0) + size
            if total <= self.most:
                write_json(path, sent | {key: total})
            return bool(total <= self.most)
        finally:
            os.close(handle)
