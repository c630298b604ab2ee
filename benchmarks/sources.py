"""Time of ingest by DICOMweb compared with the same files, and how many FHIR resources are read a second.

The archive is Debian's Orthanc on loopback, which has the same processors as the ingest. Its own processor time,
divided by the number of processors, is subtracted for `dicomweb_over_files`; `dicomweb_over_files_gross` is the ratio
as measured. `fhir_resources_per_s` is of the files of a Bulk Data export, `fhir_search_resources_per_s` of a server of
prepared pages on loopback. A value is null where the server is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 512  # pixels
PEOPLE = 30


def run_archive_step(folder: Path, workers: int, turns: int) -> dict[str, Any]:
    """Ingest the files below `folder`/images and the same from an archive, in turns; return the ratios."""
    from tests.orthanc import ABSENT, Orthanc

    if ABSENT:
        return {"dicomweb_over_files": None, "dicomweb_over_files_gross": None}
    paths = sorted((folder / "images").rglob("*.dcm"))
    ratios, net, seconds = list[float](), list[float](), list[float]()
    with Orthanc(folder / "archive", is_strict=False) as archive:
        for path in paths:
            archive.upload(path)
        known = json.dumps(archive.access)
        sources = {
            "files": f"{{_target_: fedhealth.ingest.source.Folder, root: {folder}/images}}",
            "archive": "{_target_: fedhealth.ingest.sources.dicomweb.DicomWeb, "
            f"url: {archive.dicomweb}, access: {known}}}",
        }
        for turn in range(turns + 1):
            walls = {}
            for name in list(sources)[:: -1 if turn % 2 else 1]:
                before = archive.read_processor_seconds()
                walls[name] = _time_ingest(folder, sources[name], workers, len(paths))
                if name == "archive":
                    served = (archive.read_processor_seconds() - before) / len(os.sched_getaffinity(0))
            if turn:  # the first imports, and fills the caches
                ratios.append(walls["archive"] / walls["files"])
                net.append((walls["archive"] - served) / walls["files"])
                seconds.append(served)
    return {
        "dicomweb_over_files": round(statistics.median(net), 3),
        "dicomweb_over_files_gross": round(statistics.median(ratios), 3),
        "dicomweb_server_s": round(statistics.median(seconds), 2),
        "dicomweb_instances": len(paths),
    }


def write_instances(folder: Path, count: int) -> None:
    """Write uncompressed images of 16 bits, of `PEOPLE` patients, and a table of labels."""
    from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom
    from fedhealth.data.synthetic.radiograph import Scanner

    generator, scanner = np.random.default_rng(0), Scanner(SIDE, SIDE, 16, False, "explicit", False, 1.0, 0.0, 0.0, "A")
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        patient = f"KH-{number % PEOPLE}"
        pixels = generator.integers(0, 1 << 16, (SIDE, SIDE), np.uint16)
        header = SyntheticHeader("bench", patient, f"{patient}-{number // 60}", number, 60, "F")
        write_dicom(folder / "images" / f"{number}.dcm", header, scanner, pixels)
    rows = "".join(f"KH-{number},{number % 2}\n" for number in range(PEOPLE))
    (folder / "labels.csv").write_text(f"patient,severe\n{rows}", "utf-8")


def measure_fhir(people: int) -> dict[str, float]:
    """Return how many resources are read a second, from an export and from a server."""
    from fedhealth.ingest.sources.fhir import FhirPatients
    from tests.fhir import LOINC, make_hospital, write_export
    from tests.fhir_pages import serve_pages

    kinds = ("Patient", "Observation")
    resources = [each for each in make_hospital([f"P{n}" for n in range(people)]) if each["resourceType"] in kinds]
    variables = {"crp": {"resource": "Observation", "codes": [f"{LOINC}|1988-5"]}}
    with tempfile.TemporaryDirectory(prefix="fedhealth-") as folder, serve_pages(resources, 500) as url:
        export = write_export(Path(folder) / "export", resources)
        tables = {"": FhirPatients(folder=str(export), variables=variables)}
        tables["search_"] = FhirPatients(url, variables=variables)
        found = dict[str, float]()
        for name, table in tables.items():
            start = time.perf_counter()
            read = table.read_table()
            found[f"fhir_{name}resources_per_s"] = round(len(resources) / (time.perf_counter() - start))
            if len(read.lines) != people:
                raise SystemExit("not all resources were read")
    return found


def _time_ingest(folder: Path, source: str, workers: int, images: int) -> float:
    """Ingest from nothing; return the seconds."""
    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.ingest.ingest_files import ingest_files
    from fedhealth.ingest.settings import load_ingest_settings

    (folder / "ingest.yaml").write_text(
        f"""site: bench
data: cxr
source: {source}
tables: [{{path: {folder}/labels.csv, keys: {{patient: patient}}, columns: {{severe: severe}}}}]
""",
        "utf-8",
    )
    settings, out = load_ingest_settings(folder / "ingest.yaml"), folder / "cohort"
    data = compose_data_config(settings, out, ("data.image.size=224",))
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    result = ingest_files(settings, data, out, workers, lambda *told: None)
    seconds = time.perf_counter() - start
    if len(result.dataset.image_index) != images:
        raise SystemExit("not all images were ingested")
    return seconds
