"""The opened sums of a run, on the disk before the lead uses them: after a restart no site is asked for them again.

The model of round r follows from the model of round r - 1 and sum r. If a checkpoint is lost, the lead goes on from the
one before with the stored sum; to ask the sites again would need new draws, paid for with privacy budget.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from fedhealth.privacy.auditing.blank_values import BlankValues
from fedhealth.protocol.messages import digest_arrays
from fedhealth.types import State
from fedhealth.utils.array_file import read_array_file, write_array_file
from strategies.aggregation.base import Aggregate

_UPDATE, _STATISTICS = "update.", "statistics."
_KEPT = 3  # of each kind: more than there are checkpoints to go back to

log = logging.getLogger("fedhealth.lead")


class SumStore:
    """The newest opened sums of each kind of request.

    Args:
        folder: of the files; it is created when the first sum is stored.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, kind: str, number: int, incoming: bytes, aggregate: Aggregate) -> None:
        """Store a sum durably, then delete those that are no longer needed.

        Args:
            kind: message type of the request.
            number: round of the request.
            incoming: digest of the arrays that were sent with it.
            aggregate: the sum.

        Raises:
            OSError: disk full or no permission.

        """
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {_UPDATE + name: array for name, array in aggregate.update.items()}
        arrays |= {_STATISTICS + name: array for name, array in aggregate.statistics.items()}
        about = {
            "incoming": incoming.hex(),
            "sites": json.dumps(aggregate.sites),
            "sha256": digest_arrays(arrays).hex(),
            "link": aggregate.link.hex(),
            "blanks": json.dumps({name: asdict(each) for name, each in aggregate.blanks.items()}),
        }
        write_array_file(self._path(kind, number), arrays, about)
        for path in sorted(self._folder.glob(f"{kind}-*"))[:-_KEPT]:
            path.unlink()

    def load(self, kind: str, number: int, incoming: bytes) -> Aggregate | None:
        """Return the sum that answered this request; None if there is none, or if its file is damaged."""
        path = self._path(kind, number)
        if not path.is_file():
            return None
        try:
            arrays, about = read_array_file(path)
            if about.get("incoming") != incoming.hex() or digest_arrays(arrays).hex() != about.get("sha256"):
                return None
            return _read_sum(arrays, about)
        except (OSError, ValueError, KeyError, TypeError) as fault:
            log.warning("%s is damaged (%s)", path, fault)
            return None

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number:05d}.safetensors"


def _read_sum(arrays: State, about: dict[str, str]) -> Aggregate:
    update, statistics = _select_part(_UPDATE, arrays), _select_part(_STATISTICS, arrays)
    blanks = {name: BlankValues(**each) for name, each in json.loads(about.get("blanks", "{}")).items()}
    return Aggregate(update, statistics, tuple(json.loads(about["sites"])), bytes.fromhex(about["link"]), blanks)


def _select_part(prefix: str, arrays: State) -> State:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
