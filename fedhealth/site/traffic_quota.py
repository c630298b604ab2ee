"""The limit on outgoing bytes per round of a run, counted in a small file that all processes of the site share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedhealth.protocol.messages import Directive
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.json_model import WholeNumber, read_model
from fedhealth.utils.private_files import make_private_folder


@dataclass(frozen=True)
class TrafficQuota:
    """One run's counter of outgoing bytes.

    Attributes:
        folder: the run's private folder.
        max_bytes: limit for one round, all attempts together.

    """

    folder: Path
    max_bytes: int

    def try_consume(self, directive: Directive, size: int) -> bool:
        """Count a reply of `size` bytes if the round's limit allows it; return whether it does."""
        make_private_folder(self.folder)
        path, key = self.folder / "traffic.json", str(directive.round)
        with lock_file(path.with_suffix(".lock")):
            sent = read_model(path, dict[str, WholeNumber], "Remove it, and start the run again.") or {}
            total = sent.get(key, 0) + size
            if total <= self.max_bytes:
                write_json(path, sent | {key: total})
            return bool(total <= self.max_bytes)
