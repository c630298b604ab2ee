"""What a run promised at a site, stored beside the ledger: also the delta at which its epsilon is measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhealth.privacy.accounting.ledger_folder import get_target_path
from fedhealth.utils.atomic_io import write_json


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

    """

    run: str
    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    rounds: int


def save_target(folder: Path, target: PrivacyTarget) -> None:
    """Store a run's target in a site's folder."""
    write_json(get_target_path(folder, target.run), asdict(target))


def load_target(folder: Path, run: str) -> PrivacyTarget | None:
    """Return a run's target from a site's folder; None if there is none."""
    path = get_target_path(folder, run)
    return PrivacyTarget(**json.loads(path.read_text("utf-8"))) if path.is_file() else None
