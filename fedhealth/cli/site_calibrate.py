"""Implementation of `fedhealth site calibrate`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import check_target, print_lines
from fedhealth.errors import ConfigError
from fedhealth.evaluation.calibration import PRIOR_STUDIES, ClassCalibration
from fedhealth.runs.hospital_calibration import (
    HospitalCalibration,
    find_own_scores,
    load_calibration,
    write_calibration,
)
from fedhealth.runs.score_file import CALIBRATION_FILE, OWN_SCORES_FILE, POOLED_SCORES_FILE, ScoreFile, load_score_file
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy


def run_calibrate(model: Path, to: Path | None, folder: Path | None) -> None:
    """Write this hospital's calibration of a model, and show what it found.

    Raises:
        ConfigError: this hospital has not evaluated the model, or the file cannot be written.
        ModelError: the model's folder has no pooled scores, or a file is damaged.

    """
    home = SiteHome.find(folder)
    path, own, pooled = find_own_model(model, home)
    target = to or path.with_name(CALIBRATION_FILE)
    check_target(target, (".safetensors",))
    write_calibration(own, pooled, load_policy(home).name, target)
    _print_calibration(load_calibration(target), target)


def find_own_model(model: Path, home: SiteHome) -> tuple[Path, ScoreFile, ScoreFile]:
    """Return where this hospital's own scores of an exported model are, these scores, and the pooled ones.

    Raises:
        ConfigError: this hospital has not evaluated the model.
        ModelError: the model's folder has no pooled scores, or a file is damaged.

    """
    pooled = load_score_file(model / POOLED_SCORES_FILE)
    for path in sorted(home.get_run_folder("").glob(f"*/{OWN_SCORES_FILE}")):
        if (own := find_own_scores(pooled, [path])) is not None:
            return path, own, pooled
    raise ConfigError(
        f"This hospital has no scores of the model in {model}: it did not take part in the end of its run.",
        "Give the folder `model` of a run that this hospital evaluated.",
    )


def _print_calibration(found: HospitalCalibration, target: Path) -> None:
    lines = (f"class {number}: {_describe_class(each)}" for number, each in enumerate(found.classes, start=1))
    variant = "this hospital's own model" if found.is_personal else "the shared model"
    print_lines(Console(), f"Calibrated {variant} for {found.hospital}: {target}", *lines)
    print_lines(Console(), "The file holds this hospital's own counts: it is for use here.")


def _describe_class(each: ClassCalibration) -> str:
    studies = f"{each.positives} own studies with it and {each.negatives} without"
    prior = (
        f"all hospitals' scores count like {PRIOR_STUDIES} more"
        if each.has_pooled
        else ("the scores of all hospitals are hidden by their noise, or hold one class only, and do not count")
    )
    return f"temperature {each.temperature:.2f}, offset {each.offset:+.2f}; from {studies}; {prior}"
