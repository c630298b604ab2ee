"""Time of one phase over TLS compared with stock Flower in the same run; large messages; CPU time of an idle server.

`python -m benchmarks.round_latency [--quick]` prints a table and, as its last line, one JSON object. Our phases are
whole rounds of a real run: four sites, one training step each, including the checkpoint. Stock Flower gets the same
arrays, without TLS and without training. Even `--quick` takes about two minutes, most of it for stock Flower.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.stock_flower import measure_stock_phases
from fedhealth.runtime.local_consortium import LocalConsortium

SITES = ("a", "b", "c", "d")
IDLE_SITES = 50
OPEN = {
    "unattended_studies": True,
    "units": ["none"],
    "secure_aggregation": False,
    "records": ["acceptance", "update", "statistics"],
    "min_patients": 3,
}
OVERRIDES = [
    "model.image=null",
    "model/text=words",
    "model.text.dropout=0",
    "privacy=none",
    "secagg=off",
    "training=sgd",
    "training.local_steps=1",
    "training.batch_size=8",
    "evaluation.bootstrap=10",
    "baselines.local_only=false",
    "baselines.centralised=false",
]
SMALL = ["model.dim=8", "model.text.hidden=8", "model.text.buckets=64"]
LARGE = ["model.dim=8", "model.text.hidden=16", "model.text.buckets=730000"]  # 47 MB of float32


def write_site(folder: Path, site: str, patients: int = 40) -> None:
    """Write a hospital with notes and values, without images."""
    generator = np.random.default_rng(len(site))
    folder.mkdir(parents=True)
    columns = ["patient_id", "study_id", "image", "text", "label", "age", "sex", "crp", "ldh", "lymphocytes", "spo2"]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number in range(patients):
            age, label = int(generator.integers(20, 90)), number % 2
            note = "worse, oxygen given" if label else "better, walks about"
            writer.writerow([f"{site}{number}", "1", "", note, label, age, "F", 30 + 50 * label, 300, 1.2, 95])


def run_rounds(poc: LocalConsortium, folder: Path, overrides: Sequence[str], rounds: int) -> list[float]:
    """Return the seconds of every round but the first, which loads data and builds models."""
    from fedhealth.experiment.launch import launch_run
    from fedhealth.experiment.run_spec import RunSpec
    from fedhealth.runs.run_dir import RunDir

    job = [*OVERRIDES, *overrides, f"strategy.rounds={rounds + 1}"]
    job += ["runtime=deployment", f"runtime.home='{poc.lead.path}'"]
    run = RunDir(folder)
    launch_run(RunSpec.compose(job, run))
    return [event["seconds"] for event in run.read_events()[0] if event["event"] == "round_completed"][1:]


def measure_our_rounds(folder: Path, quick: bool) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Return seconds of small rounds, of 47 MB there and back for one site, and the small model."""
    from safetensors.numpy import load_file

    for site in SITES:
        write_site(folder / "data" / site, site)
    poc = LocalConsortium(folder, {site: folder / "data" / site for site in SITES}, limits=OPEN)
    poc.set_up()
    with poc.run():
        everybody = f"data.sites=[{','.join(SITES)}]"
        small = run_rounds(poc, folder / "small", [*SMALL, everybody], 8 if quick else 30)
        large = run_rounds(poc, folder / "large", [*LARGE, f"data.sites=[{SITES[0]}]"], 4 if quick else 12)
    return small, large, load_file(folder / "small" / "model.safetensors")


def measure_idle_share(folder: Path, seconds: float) -> float:
    """Return the share of one core that a server takes with 50 connected sites and nothing to do."""
    from fedhealth.site import daemon as module

    vars(module)["start_forkserver"] = lambda application: None  # no site will work
    names = [f"s{number:02d}" for number in range(IDLE_SITES)]
    poc = LocalConsortium(folder, dict.fromkeys(names, folder))
    poc.set_up()
    poc.start_lead()
    runners = [module.SiteDaemon(poc.site_home(name), "none.app") for name in names]
    threads = [threading.Thread(target=runner.serve) for runner in runners]
    try:
        for thread in threads:
            thread.start()
        from fedhealth.lead.connect_control import connect_control

        with connect_control(poc.lead) as control:
            poc.wait_until(lambda: poc.count_online(control) == IDLE_SITES, "50 sites to connect")
        server = poc.processes["lead"].pid
        time.sleep(3)
        before, began = _read_cpu_seconds(server), time.perf_counter()
        time.sleep(seconds)
        return (_read_cpu_seconds(server) - before) / (time.perf_counter() - began)
    finally:
        for runner in runners:
            runner.stopping.set()
        for thread in threads:
            thread.join()
        poc.stop()


def _read_cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_measurements(folder: Path, quick: bool) -> Iterator[tuple[str, float, str]]:
    """Yield (key, value, target) as they are measured."""
    small, large, state = measure_our_rounds(folder / "ours", quick)
    stock = measure_stock_phases(folder / "stock", state, len(SITES), 2 if quick else 5)
    phase, other = statistics.median(small), statistics.median(stock)
    yield "phase_seconds", phase, "<= 0.6"
    yield "stock_phase_seconds", other, ""
    yield "ratio", other / phase, ">= 15"
    yield "seconds_per_47MB_roundtrip", statistics.median(large), "<= 3.5"
    yield f"idle_superlink_cpu_{IDLE_SITES}_sites", measure_idle_share(folder / "idle", 15 if quick else 60), "<= 0.25"


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    table = Table("Figure", "Value", "Target")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, value, target in run_measurements(Path(folder), quick):
            table.add_row(key, f"{value:.3f}", target)
            found[key] = round(value, 4)
    Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
