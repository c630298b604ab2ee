"""What a run promised at a site, stored beside the ledger: also the delta at which its epsilon is measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_folder import LEDGER_DIR, TARGET_SUFFIX, get_target_path
from fedhealth.utils.atomic_io import encode_json, write_atomic
from fedhealth.utils.json_model import parse_model


@dataclass(frozen=True)
class PrivacyTarget:
    """The guarantee of a whole run at a site.

    Attributes:
        run: the run's id.
        unit: whom the guarantee protects.
        epsilon: the most that the run may spend.
        delta: at which epsilon is measured.
        noise_multiplier: of the training.
        rounds: of the run.
        dataset: name of the ledger; empty in files of earlier releases.
        release_events: each event that one request of the run may book: a round, the release of the scores.
        max_records_per_patient: the most studies of one patient that they use, for unit `record`.
        run_events: everything that the whole run may book.

    """

    run: str
    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    rounds: int
    dataset: str = ""
    release_events: tuple[PrivacyEvent, ...] = ()
    max_records_per_patient: int = 1
    run_events: tuple[PrivacyEvent, ...] = ()


def save_target(folder: Path, target: PrivacyTarget) -> None:
    """Store a run's target in a site's folder, as its newest; one that is stored already is not written again."""
    path, content = get_target_path(folder, target.run), encode_json(asdict(target))
    if path.is_file() and path.read_bytes() == content:
        path.touch()
    else:
        write_atomic(path, content)


def load_target(folder: Path, run: str) -> PrivacyTarget | None:
    """Return a run's target from a site's folder; None if there is none."""
    path = get_target_path(folder, run)
    return _read_target(path) if path.is_file() else None


def list_newest_targets(folder: Path, ended: Collection[str]) -> list[PrivacyTarget]:
    """Return the targets of a site on all data sets, the newest first, without those of runs that have ended."""
    closed = {get_target_path(folder, run).name for run in ended}
    paths = [path for path in (folder / LEDGER_DIR).glob(f"*{TARGET_SUFFIX}") if path.name not in closed]
    return [_read_target(path) for path in sorted(paths, key=_get_time, reverse=True)]


def _read_target(path: Path) -> PrivacyTarget:
    return parse_model(path.read_bytes(), PrivacyTarget, str(path), "Restore it from a backup.", PrivacyError)


def _get_time(path: Path) -> int:
    return path.stat().st_mtime_ns
