"""Export the X-ray data set like a hospital: DICOM files of several scanners, a table of reports, one of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom
from fedhealth.data.synthetic.radiograph import Scanner

Row = dict[str, str]
_KINDS = [(8, False, "implicit"), (12, False, "explicit"), (8, True, "explicit"), (12, True, "rle"), (8, False, "rle")]


def read_rows(folder: Path, site: str | None = None) -> list[Row]:
    """Return the rows of data.csv, of one site or of all."""
    with (folder / "data.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if site in (None, row["site"])]


def write_dicom_files(data: Path, target: Path, rows: Sequence[Row], longest: int | None = None) -> None:
    """Write each row's image as a DICOM file below `target`/images; in turn as each kind of file.

    Args:
        data: the folder of data.csv.
        target: a folder.
        rows: of data.csv.
        longest: longer side in pixels to which images are enlarged; None keeps their size.

    """
    for number, row in enumerate(rows):
        image = Image.open(data / row["image"]).convert("L")
        if longest:
            scale = longest / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        bits, inverted, syntax = _KINDS[number % len(_KINDS)]
        grey = np.asarray(image).astype(np.uint16) << (bits - 8)
        values = (2**bits - 1) - grey if inverted else grey
        stored = values.astype(np.uint8) if bits == 8 else values.astype(np.uint16)
        height, width = stored.shape
        scanner = Scanner(height, width, bits, inverted, syntax, False, 1.0, 0.0, 0.0, "A")
        folder = target / "images" / row["patient_id"]
        folder.mkdir(parents=True, exist_ok=True)
        header = SyntheticHeader("charite", row["patient_id"], f"study-{number}", 1, 60, row["sex"] or "O")
        write_dicom(folder / f"{number}.dcm", header, scanner, stored)


def write_tables(target: Path, rows: Sequence[Row]) -> None:
    """Write reports.csv (Windows encoding, semicolons) and labels.csv with each patient's last label."""
    with (target / "reports.csv").open("w", newline="", encoding="cp1252", errors="replace") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["PatientNr", "Befund"])
        writer.writerows([row["patient_id"], row["text"]] for row in rows if row["text"])
    values = [name for name in rows[0] if name.startswith("lab_")]
    with (target / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["pid", "severe", "split", *values])
        last = {row["patient_id"]: row for row in rows}
        writer.writerows(
            [patient, row["severe"], row["split"], *(row[name] for name in values)] for patient, row in last.items()
        )
