"""What secure aggregation costs among many sites, and the size of one reply for a small model.

`python -m benchmarks.scale_secagg` prints one JSON object. A round is one of `runtime=local` on tabular data: all sites
train one step and are evaluated. Processor time, not wall time, so that other load on the machine matters little.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PATIENTS = 40  # of each site
FEW, MANY = 2, {"on": 6, "off": 22}  # rounds; cheap ones differ from each other by as much as they take
OVERRIDES = [
    "experiment=heart",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "baselines.modalities=false",
    "evaluation.bootstrap=10",
]
SITES = ("a", "b", "c", "d")


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


def run_in_process(target: Path, cohort: Path, sites: Sequence[str], overrides: Sequence[str]) -> float:
    """Run `fedhealth run` in a process of its own; return its processor seconds."""
    command = [str(Path(sys.executable).with_name("fedhealth")), "run", *OVERRIDES, *overrides]
    command += [f"data.root='{cohort}'", f"data.sites=[{','.join(sites)}]", f"hydra.run.dir='{target}'"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"the run failed with status {status}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def measure_round_seconds(folder: Path, sites: Sequence[str], secagg: str) -> float:
    """Return the processor seconds of one round without start-up: many rounds less few."""
    seconds = {}
    many = MANY[secagg]
    for rounds in (FEW, many):
        overrides = [f'secagg="{secagg}"', f"strategy.rounds={rounds}"]
        seconds[rounds] = run_in_process(folder / f"{secagg}-{rounds}", folder, sites, overrides)
    return (seconds[many] - seconds[FEW]) / (many - FEW)


def measure_round_ratio(sites: int) -> float:
    """Return the processor time of a round with secure aggregation on over one with it off."""
    names = [f"s{number:03d}" for number in range(sites)]
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), names)
        seconds = {secagg: measure_round_seconds(Path(folder), names, secagg) for secagg in ("on", "off")}
    print(f"{sites} sites, processor seconds of a round: {seconds}", file=sys.stderr)
    return seconds["on"] / seconds["off"]


def measure_reply_bytes() -> int:
    """Return the largest reply of a site in bytes, for a model of a few KB and without secure aggregation."""
    from fedhealth.runs.run_dir import RunDir

    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), SITES)
        run_in_process(Path(folder) / "run", Path(folder), SITES, ['secagg="off"', "strategy.rounds=2"])
        events, _ = RunDir(Path(folder) / "run").read_events()
    return max(event["received"] for event in events if event["event"] == "site_answered")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    found = {"round_on_over_off_64": measure_round_ratio(64), "answer_bytes_small": measure_reply_bytes()}
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
