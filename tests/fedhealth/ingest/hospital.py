"""A small hospital's export: DICOM files, a table of reports, a table of labels, and the file that describes them."""

import csv
from pathlib import Path

import numpy as np

from fedhealth.cli.ingest import compose_data_config
from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom
from fedhealth.data.synthetic.radiograph import Scanner
from fedhealth.ingest.ingest_files import ingest_files
from fedhealth.ingest.settings import load_ingest_settings

NAMES = ("Mueller", "Schmidt", "Okafor", "Larsen")
SYNTAXES = ("implicit", "explicit", "rle")
OVERRIDES = ("data.image.size=16", "data.split.validation=0.2", "data.split.test=0.2")


def write_image(path, patient, number=0, label=0, seed=0, size=24):
    """Write one DICOM file; more of a severe patient's image is bright."""
    generator = np.random.default_rng(seed)
    bright = generator.random((size, size - 4)) < 0.3 + 0.4 * label
    grey = (60 + 120 * bright + generator.integers(0, 20, bright.shape)).astype(np.uint8)
    inverted = bool(seed % 2)
    scanner = Scanner(size, size - 4, 8, inverted, SYNTAXES[seed % 3], False, 1.0, 0.0, 0.0, "A")
    header = SyntheticHeader("charite", patient, f"{patient}-{number}", number, 60, "F")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(path, header, scanner, 255 - grey if inverted else grey)


def write_csv(path, rows, encoding="utf-8", delimiter=","):
    """Write a table; the first row is its header."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


class Hospital:
    """An export below `folder`: `images/`, `reports.csv`, `labels.csv`, `ingest_files.yaml`."""

    def __init__(self, folder: Path, patients: int = 30) -> None:
        self.folder, self.images, self.file = folder, folder / "images", folder / "ingest.yaml"
        reports, labels = [("PatientNr", "Nachname", "Befund")], [("pid", "severe", "crp")]
        for number in range(patients):
            patient, label = f"KH-{1000 + number}", number % 2
            write_image(self.images / patient / "1.dcm", patient, label=label, seed=number)
            name, course = NAMES[number % 4], "schlechter" if label else "besser"
            if number % 3:
                reports.append((patient, name, f"Befund: Frau {name}, geb. 12.03.1950, heute {course}. Größe normal."))
            labels.append((patient, str(label) if number % 7 else "", f"{20 + 60 * label}.5"))
        write_csv(folder / "reports.csv", reports, "cp1252", ";")
        write_csv(folder / "labels.csv", labels)
        self.write()

    def write(self, further="", tables=True) -> None:
        """Write ingest.yaml."""
        content = (
            f"site: charite\ndata: demo\nsource: {{_target_: fedhealth.ingest.source.Folder, root: {self.images}}}\n"
        )
        if tables:
            content += f"""tables:
  - path: {self.folder}/reports.csv
    keys: {{patient: PatientNr}}
    columns: {{text: Befund}}
    names: [Nachname]
  - path: {self.folder}/labels.csv
    keys: {{patient: pid}}
    columns: {{label: severe, crp: crp}}
"""
        self.file.write_text(content + further)

    def ingest(self, out, *overrides, workers=2, progress=lambda *told: None):
        """Ingest into `out`."""
        settings = load_ingest_settings(self.file)
        data = compose_data_config(settings, out, (*OVERRIDES, *overrides))
        return ingest_files(settings, data, out, workers, progress)
