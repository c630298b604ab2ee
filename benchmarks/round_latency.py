"""One phase over TLS beside stock Flower and beside a bare TLS request; large messages; CPU time of an idle server.

`python -m benchmarks.round_latency [--quick]` prints a table and, as its last line, one JSON object. Our phases are
whole rounds of a real run: four sites, one training step each, including the checkpoint. Stock Flower gets the same
arrays, without TLS and without training. Even `--quick` takes three minutes, most of it for stock Flower.

- stock_torch_over_ours: wall time of stock Flower's phase, whose application imports torch alone, over ours;
  stock_over_ours: its application imports what a hospital's imports (`clients.app`).
- exchange_over_bare_tls: processor time of all our processes in a round of a small model over that of four bare TLS
  requests with the same bytes there and back (`bare_tls`), `_wall`: their wall times; `exchange_47mb_`: one site and a
  model of 47 MB.
- idle_superlink_cpu_50_sites: the share of one core that a server takes with 50 sites and nothing to do.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.bare_tls import Certificates, Cost, measure_requests
from benchmarks.peers_usage import read_cpu_seconds
from benchmarks.round_meter import RoundCost, RoundMeter
from benchmarks.stock_flower import measure_stock_phases
from benchmarks.targets import Figure, report_figures
from fedhealth.runtime.local_consortium import LocalConsortium

FIGURES = (
    Figure("exchange_over_bare_tls", "<=", 65),
    Figure("exchange_over_bare_tls_wall", "<=", 50),
    Figure("exchange_47mb_over_bare_tls", "<=", 24),
    Figure("exchange_47mb_over_bare_tls_wall", "<=", 24),
    Figure("stock_torch_over_ours", ">=", 15),
    Figure("stock_over_ours", ">=", 15),
    Figure("idle_superlink_cpu_50_sites", "<=", 0.25),
)
Pair = tuple[RoundCost, Cost]
REPEATS = 15  # of the bare requests
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


def run_rounds(poc: LocalConsortium, folder: Path, overrides: Sequence[str], rounds: int) -> RoundCost:
    """Return what a round takes, but for the first, which loads data and builds models."""
    from fedhealth.experiment.launch import launch_run
    from fedhealth.experiment.run_spec import RunSpec
    from fedhealth.runs.run_dir import RunDir

    job = [*OVERRIDES, *overrides, f"strategy.rounds={rounds + 1}"]
    job += ["runtime=deployment", f"runtime.home='{poc.lead.path}'"]
    run = RunDir(folder)
    with RoundMeter(run) as meter:
        launch_run(RunSpec.compose(job, run))
    return meter.summarize()


def measure_our_rounds(folder: Path, quick: bool) -> tuple[Pair, Pair, dict[str, np.ndarray]]:
    """Return (our round, bare requests) for small rounds and for 47 MB there and back to one site; the small model."""
    from safetensors.numpy import load_file

    for site in SITES:
        write_site(folder / "data" / site, site)
    poc = LocalConsortium(folder, {site: folder / "data" / site for site in SITES}, limits=OPEN)
    poc.set_up()
    with poc.run():
        everybody = f"data.sites=[{','.join(SITES)}]"
        small = run_rounds(poc, folder / "small", [*SMALL, everybody], 8 if quick else 30)
        large = run_rounds(poc, folder / "large", [*LARGE, f"data.sites=[{SITES[0]}]"], 4 if quick else 12)
    certificates = Certificates(poc.lead.certificate, poc.lead.server_key, poc.lead.ca)
    bare = [measure_requests(certificates, each.sent, each.received, each.sites, REPEATS) for each in (small, large)]
    return (small, bare[0]), (large, bare[1]), load_file(folder / "small" / "model.safetensors")


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
        before, began = read_cpu_seconds(server), time.perf_counter()
        time.sleep(seconds)
        return (read_cpu_seconds(server) - before) / (time.perf_counter() - began)
    finally:
        for runner in runners:
            runner.stopping.set()
        for thread in threads:
            thread.join()
        poc.stop()


def measure_figures(folder: Path, *, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield (name, value) as they are measured."""
    (small, bare), (large, bare_large), state = measure_our_rounds(folder / "ours", quick)
    yield "phase_seconds", small.wall
    yield "phase_cpu_seconds", small.cpu
    yield "phase_bytes_of_a_site", small.sent + small.received
    yield "bare_tls_cpu_seconds", bare.cpu
    yield "exchange_over_bare_tls", small.cpu / bare.cpu
    yield "exchange_over_bare_tls_wall", small.wall / bare.wall
    yield "seconds_per_47MB_roundtrip", large.wall
    yield "exchange_47mb_over_bare_tls", large.cpu / bare_large.cpu
    yield "exchange_47mb_over_bare_tls_wall", large.wall / bare_large.wall
    for name, imports in (("stock_torch", "torch"), ("stock", "clients.app")):
        seconds = measure_stock_phases(folder / name, state, len(SITES), 2 if quick else 5, imports)
        yield f"{name}_phase_seconds", statistics.median(seconds)
        yield f"{name}_over_ours", statistics.median(seconds) / small.wall
    yield f"idle_superlink_cpu_{IDLE_SITES}_sites", measure_idle_share(folder / "idle", 15 if quick else 60)


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        report_figures(measure_figures(Path(folder), quick=quick), FIGURES)


if __name__ == "__main__":
    main()
