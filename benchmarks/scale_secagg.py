"""What secure aggregation costs among many sites, and the size of one reply for a small model.

`python -m benchmarks.scale_secagg [--quick]` prints one JSON object. A round is one of `runtime=local` on tabular data:
all sites train one step and are evaluated. Processor time, not wall time, so another load on the machine matters little.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PATIENTS = 40  # of each site
FEW, MANY = 2, 6
OVERRIDES = [
    "experiment=heart",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "baselines.modalities=false",
    "evaluation.bootstrap=10",
]
CODES = {"cp": 4, "restecg": 3}  # levels


def write_cohort(folder: Path, sites: Sequence[str]) -> None:
    """Write data.csv as `experiment=heart` reads it, with random patients."""
    generator = np.random.default_rng(0)
    columns = ["site", "split", "label", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang"]
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "oldpeak"])
        for site in sites:
            for number in range(PATIENTS):
                label = number % 2
                split = "test" if number % 4 > 1 else "train"
                numbers = generator.integers([29, 0, 1, 100, 150, 0, 0, 90, 0], [78, 2, 5, 180, 350, 2, 3, 190, 2])
                writer.writerow([site, split, label, *numbers, round(generator.random() + label, 1)])


def measure_run_seconds(folder: Path, sites: Sequence[str], overrides: Sequence[str]) -> float:
    """Return the processor seconds of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as target:
        command = [str(Path(sys.executable).with_name("fedhealth")), "run", *OVERRIDES, *overrides]
        command += [f"data.root='{folder}'", f"data.sites=[{','.join(sites)}]", f"hydra.run.dir={target}/run"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise RuntimeError(f"the run failed with status {status}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def measure_round_seconds(folder: Path, sites: Sequence[str], secagg: str) -> float:
    """Return the processor seconds of one round without start-up: many rounds less few."""
    few, many = (
        measure_run_seconds(folder, sites, [f"secagg={secagg}", f"strategy.rounds={rounds}"]) for rounds in (FEW, MANY)
    )
    return (many - few) / (MANY - FEW)


def measure_round_ratio(sites: int) -> float:
    """Return the processor time of a round with secure aggregation on over one with it off."""
    names = [f"s{number:03d}" for number in range(sites)]
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), names)
        on, off = (measure_round_seconds(Path(folder), names, secagg) for secagg in ('"on"', '"off"'))
    print(f"{sites} sites: {on:.2f} s a round with secure aggregation, {off:.2f} s without", file=sys.stderr)
    return on / off
