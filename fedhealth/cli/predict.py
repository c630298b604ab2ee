"""`fedhealth predict`: score new studies with an exported model."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.config.schema import TaskKind
from fedhealth.errors import ConfigError
from fedhealth.utils.atomic_io import write_atomic

if TYPE_CHECKING:
    import numpy as np

    from fedhealth.export.model import ExportedModel
    from fedhealth.runs.hospital_calibration import HospitalCalibration

ADVICE = "Research use: not a medical device. See the model card in README.md."
DEFAULT_RISK = 0.1
_DECISIONS = {1: "yes", 0: "no", -1: "abstains"}


@dataclass(frozen=True)
class Scoring:
    """With which model to score, and how.

    Attributes:
        folder: of the exported model.
        own: a hospital's personal.safetensors; None for the shared model.
        calibration: a hospital's calibration file; None for probabilities as the model gives them.
        risk: of the abstention band, see `ClassCalibration.find_band`.
        config_dir: the folder of configuration files that names parts of an own package; None for none.

    """

    folder: Path
    own: Path | None = None
    calibration: Path | None = None
    risk: float = DEFAULT_RISK
    config_dir: Path | None = None


def run_predict(
    scoring: Scoring, images: list[Path], note: str | None, values: list[str], table: Path | None, to: Path | None
) -> None:
    """Print the probabilities for one study, or for every row of a table.

    Raises:
        ConfigError: both a study and a table are given, or neither.
        FedhealthError: the model, its calibration, an image, a value or the table cannot be used.

    """
    one = bool(images or note or values)
    if one == (table is not None):
        raise ConfigError("Give one study or a table.", "Use --image, --note, --value, or --table alone.")
    from fedhealth.export.model import load_model
    from fedhealth.export.predict import StudyInput, read_studies, score_studies

    calibration = _load_calibration(scoring)
    exported = load_model(scoring.folder, scoring.own, scoring.config_dir)
    if table is None:
        study = StudyInput(tuple(images), _load_note(note), dict(map(_parse_value, values)))
        found = _describe_study(exported, score_studies(exported, [study]), calibration, scoring.risk)
        sys.stdout.write(json.dumps({**found, "note": ADVICE}, indent=1) + "\n")
        return
    ids, studies = read_studies(table, exported.data)
    head, rows = _build_table(exported, score_studies(exported, studies), calibration, scoring.risk)
    _write_csv(to, ["study", *head], ([key, *row] for key, row in zip(ids, rows, strict=True)))


def _load_calibration(scoring: Scoring) -> HospitalCalibration | None:
    """Return the calibration, of this model and variant.

    Raises:
        ConfigError: it is of another model or variant, or the risk is not possible.
        ModelError: it cannot be read.

    """
    if not 0 < scoring.risk < 1:
        raise ConfigError(f"--risk {scoring.risk:g} is not between 0 and 1.", "Give a share, such as --risk 0.1.")
    if scoring.calibration is None:
        return None
    from fedhealth.runs.hospital_calibration import MODEL, load_calibration
    from fedhealth.runs.score_file import POOLED_SCORES_FILE, load_score_file

    found = load_calibration(scoring.calibration)
    if found.model != load_score_file(scoring.folder / POOLED_SCORES_FILE).about.get(MODEL):
        raise ConfigError(f"{scoring.calibration} is of another model.", "Run `fedhealth site calibrate` for this one.")
    if found.is_personal != (scoring.own is not None):
        kind, advice = ("the hospital's own model", "Give") if found.is_personal else ("the shared model", "Leave out")
        raise ConfigError(f"{scoring.calibration} is of {kind}.", f"{advice} --own.")
    return found


def _describe_study(
    exported: ExportedModel, scores: np.ndarray, calibration: HospitalCalibration | None, risk: float
) -> dict[str, Any]:
    """Return the probabilities of one study, and with a calibration what was decided and for whom it holds."""
    from fedhealth.export.predict import list_class_names

    names = list_class_names(exported.data)
    given = {name: round(float(value), 6) for name, value in zip(names, scores[0], strict=True)}
    if calibration is None:
        return {"probabilities": given, "calibrated_for": None}
    calibrated = calibration.calibrate_scores(scores, _is_exclusive(exported))[0]
    decided = calibration.decide_studies(scores, risk)[0]
    return {
        "probabilities": {name: round(float(value), 6) for name, value in zip(names, calibrated, strict=True)},
        "decision": {name: _DECISIONS[int(value)] for name, value in zip(names, decided, strict=True)},
        "risk": risk,
        "threshold": {name: round(each.threshold, 6) for name, each in zip(names, calibration.classes, strict=True)},
        "calibrated_for": calibration.hospital,
        "own_studies": {
            name: {"with": each.positives, "without": each.negatives}
            for name, each in zip(names, calibration.classes, strict=True)
        },
        "uncalibrated": given,
    }


def _build_table(
    exported: ExportedModel, scores: np.ndarray, calibration: HospitalCalibration | None, risk: float
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of each study: probabilities, and with a calibration decisions and hospital."""
    from fedhealth.export.predict import list_class_names

    names = list_class_names(exported.data)
    if calibration is None:
        return names, [[*map(str, row)] for row in scores]
    calibrated = calibration.calibrate_scores(scores, _is_exclusive(exported))
    decided = calibration.decide_studies(scores, risk)
    head = [*names, *(f"{name} decision at risk {risk:g}" for name in names), "calibrated for"]
    cells = zip(calibrated, decided, strict=True)
    rows = [[*map(str, row), *(_DECISIONS[int(each)] for each in marks), calibration.hospital] for row, marks in cells]
    return head, rows


def _is_exclusive(exported: ExportedModel) -> bool:
    return exported.data.task.kind is TaskKind.multiclass


def _write_csv(to: Path | None, head: list[str], rows: Iterable[list[str]]) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    if to:
        write_atomic(to, file.getvalue().encode())
        sys.stderr.write(f"Scores: {to.resolve().as_uri()}\n")
    else:
        sys.stdout.write(file.getvalue())


def _load_note(note: str | None) -> str:
    """Return the note; `@FILE` reads it from a file."""
    if note is None or not note.startswith("@"):
        return note or ""
    try:
        return Path(note[1:]).read_text("utf-8", errors="replace").strip()
    except OSError as fault:
        raise ConfigError(f"The note {note[1:]} cannot be read ({fault.strerror}).", "Give --note=@FILE.") from fault


def _parse_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--value {text}: is not of the form name=value.", "Such as --value age=67.")
    return name, value
