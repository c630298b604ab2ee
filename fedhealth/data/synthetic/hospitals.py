"""The four synthetic hospitals, their data faults, and how they are written to disk."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom
from fedhealth.data.synthetic.notes import write_note
from fedhealth.data.synthetic.radiograph import Scanner, draw_chest, record_image
from fedhealth.data.synthetic.studies import SyntheticStudy, draw_studies

COLUMNS = ("patient_id", "study_id", "image", "text", "age", "sex", "crp", "ldh", "lymphocytes", "spo2", "label")


@dataclass(frozen=True)
class Hospital:
    """One site's size, case mix, style of notes and data faults.

    Args:
        name: folder name.
        size: number of patients, relative to the federation's `patients`.
        prevalence: expected share of label 1.
        style: of the notes; "" = no notes.
        scanner: of all its images.
        images_missing, images_broken, labs_missing, unlabelled: share of studies (cells for labs).
        two_views: share of studies with two images.

    """

    name: str
    size: float
    prevalence: float
    style: str
    scanner: Scanner
    images_missing: float = 0.0
    images_broken: float = 0.0
    labs_missing: float = 0.08
    unlabelled: float = 0.03
    two_views: float = 0.0


HOSPITALS = (
    Hospital(
        name="northfield",
        size=1.3,
        prevalence=0.30,
        style="prose",
        scanner=Scanner(128, 128, 12, False, "explicit", True, 0.80, 0.03, 0.01, "Aurora Imaging"),
        two_views=0.05,
    ),
    Hospital(
        name="st-brigid",
        size=0.6,
        prevalence=0.45,
        style="",
        scanner=Scanner(112, 96, 10, True, "implicit", False, 0.65, 0.05, 0.02, "Borealis Medical"),
    ),
    Hospital(
        name="lakeside",
        size=1.0,
        prevalence=0.15,
        style="telegram",
        scanner=Scanner(104, 104, 8, False, "rle", False, 0.90, 0.04, 0.015, "Cirrus Radiography"),
        images_broken=0.02,
        labs_missing=0.20,
    ),
    Hospital(
        name="harbor",
        size=1.0,
        prevalence=0.55,
        style="sections",
        scanner=Scanner(144, 160, 16, True, "explicit", True, 0.70, 0.06, 0.0, "Delta Diagnostics"),
        images_missing=0.30,
    ),
)


def write_hospitals(root: str | Path, seed: int = 7, patients: int = 400, sites: int = len(HOSPITALS)) -> list[str]:
    """Write hospitals under root/<name>/: manifest.csv and images/*.dcm.

    The same arguments give the same bytes. `patients` is the number of patients of a hospital with relative size 1
    (see HOSPITALS). Hospitals beyond the first four repeat their settings with other names and patients.

    Returns:
        The hospitals' names, which are their folder names.

    """
    return [write_hospital(root, index, seed, patients) for index in range(sites)]


def write_hospital(root: str | Path, index: int, seed: int, patients: int) -> str:
    """Write one of the hospitals of `write_hospitals`, the one with this index; return its name."""
    hospital = _select_hospital(index)
    _write_hospital(Path(root) / hospital.name, hospital, np.random.default_rng([seed, index]), patients)
    return hospital.name


def _select_hospital(index: int) -> Hospital:
    turn, which = divmod(index, len(HOSPITALS))
    hospital = HOSPITALS[which]
    return replace(hospital, name=f"{hospital.name}-{turn + 1}") if turn else hospital


def _write_hospital(folder: Path, hospital: Hospital, rng: np.random.Generator, patients: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    studies = draw_studies(rng, max(1, round(patients * hospital.size)), hospital.prevalence)
    count = len(studies)
    missing = _choose_studies(rng, count, hospital.images_missing)
    broken = _choose_studies(rng, count, hospital.images_broken)
    unlabelled = _choose_studies(rng, count, hospital.unlabelled)
    twice = _choose_studies(rng, count, hospital.two_views)
    damaged = 0
    rows = []
    for index, study in enumerate(studies):
        views = 0 if index in missing else 2 if index in twice else 1
        row = _draw_row(rng, hospital, study)
        row["image"] = ";".join(_write_images(rng, folder, hospital, study, views))
        row["label"] = "" if index in unlabelled else str(study.label)
        if index in broken:
            _damage_file(folder / row["image"], damaged)
            damaged += 1
        rows.append(row)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _choose_studies(rng: np.random.Generator, count: int, share: float) -> set[int]:
    """Choose exactly round(share * count) of the studies."""
    return set(rng.permutation(count)[: round(share * count)].tolist())


def _patient_id(hospital: Hospital, study: SyntheticStudy) -> str:
    return f"{hospital.name.replace('-', '')[:4].upper()}{study.patient + 1:05d}"


def _draw_row(rng: np.random.Generator, hospital: Hospital, study: SyntheticStudy) -> dict[str, str]:
    patient = _patient_id(hospital, study)
    _, b, c = study.factors
    note = write_note(rng, hospital.style, b, study.age, study.sex) if hospital.style else ""
    chance = rng.standard_normal(4)
    labs = {
        "crp": f"{np.exp(3.2 + 0.6 * c + 0.6 * chance[0]):.1f}",  # mg/l
        "ldh": f"{np.exp(5.5 + 0.15 * c + 0.2 * chance[1]):.0f}",  # U/l
        "lymphocytes": f"{np.exp(0.3 - 0.25 * c + 0.35 * chance[2]):.2f}",  # 10^9/l
        "spo2": f"{np.clip(95.0 - 1.5 * c + 2.0 * chance[3], 70, 100):.0f}",  # percent
    }
    present = rng.random(6) >= hospital.labs_missing
    cells = {"age": str(study.age), "sex": study.sex, **labs}
    return {
        "patient_id": patient,
        "study_id": f"{patient}-{study.number}",
        "text": note,
        **{name: value if here else "" for (name, value), here in zip(cells.items(), present, strict=True)},
    }


def _write_images(
    rng: np.random.Generator, folder: Path, hospital: Hospital, study: SyntheticStudy, views: int
) -> list[str]:
    patient = _patient_id(hospital, study)
    names = []
    for view in range(1, views + 1):
        header = SyntheticHeader(hospital.name, patient, f"{patient}-{study.number}", view, study.age, study.sex)
        names.append(f"images/{header.study_id}-{view}.dcm")
        picture = draw_chest(rng, hospital.scanner, float(study.factors[0]))
        write_dicom(folder / names[-1], header, hospital.scanner, record_image(rng, hospital.scanner, picture))
    return names


def _damage_file(path: Path, way: int) -> None:
    """Damage a file in one of three ways: truncate it in the pixels, reverse its bytes, or empty it."""
    data = path.read_bytes()
    path.write_bytes((data[: len(data) // 2], bytes(reversed(data)), b"")[way % 3])
