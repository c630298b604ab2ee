"""Three hospitals from their clinical systems to a trained model: `make demo-hospital`.

Each has Orthanc with its images, a FHIR server with reports and diagnoses, and an OMOP database with laboratory values,
all filled with synthetic people. Each is ingested by `fedhealth site ingest`, then a model is trained on both cohorts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.clinical_systems import ABSENT, OVERRIDES, ClinicalSystems

SITES = (("northfield", "sqlite", 1000), ("lakeside", "duckdb", 3000), ("harbor", "sqlite", 5000))


def main() -> None:
    """Start the systems, ingest, train, and print the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/demo-hospital"))
    parser.add_argument("--people", type=int, default=60, help="of each hospital")
    arguments = parser.parse_args()
    if ABSENT:
        raise SystemExit("Orthanc with DICOMweb or npm's @medplum/fhir-router is missing: run `make dev` as root.")
    folder, seconds = arguments.out.absolute(), {}
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        start = time.monotonic()
        systems = [
            stack.enter_context(ClinicalSystems(folder / site, site, arguments.people, database, first))
            for site, database, first in SITES
        ]
        seconds["systems"], start = time.monotonic() - start, time.monotonic()
        for each in systems:
            run_command("site", "ingest", each.file, *OVERRIDES, "--out", each.cohort)
        seconds["ingest"], start = time.monotonic() - start, time.monotonic()
    run_command(
        *("run", "data=demo", "data/source=ingested", "data.manifest='{site}/manifest.csv'", "data.image.size=32"),
        *(f"data.root='{folder}/cohorts'", f"data.cache='{folder}/cache'", f"hydra.run.dir='{folder}/run'"),
        *(f"data.sites=[{','.join(site for site, *_ in SITES)}]", "strategy.rounds=3"),
    )
    seconds["training"] = time.monotonic() - start
    print(json.dumps({name: round(each, 1) for name, each in seconds.items()}))


def run_command(*arguments: object) -> None:
    """Run `fedhealth` with these arguments.

    Raises:
        SystemExit: it fails.

    """
    command = [str(Path(sys.executable).with_name("fedhealth")), *map(str, arguments)]
    print("$ fedhealth", *command[1:], flush=True)
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own command line
        raise SystemExit(1)


if __name__ == "__main__":
    main()
