"""Time of ingest compared with plain decoding, and time of an epoch from its cache compared with decoding again.

`python -m benchmarks.ingest [--quick] [--data FOLDER]` multiplies the DICOM corpus and the X-ray set converted to
DICOM. In turns it measures all that `fedhealth site ingest` does from scratch, an epoch from its cache, and
`benchmarks.plain_decoding` on the same files with the same number of processes; the order alternates, and the reported
ratios are medians of each turn's ratio. Worker processes are forked from one with all imports, and the configuration is
read before, so start-up time is excluded for both. Memory is measured separately, in fresh processes. It prints a
table and, as its last line, one JSON object:

- cpu_over_raw_decode: the processors' time of our ingest over that of bare decoding, which hardly depends on what else
  the machine does; over_raw_decode is the ratio of the wall times.
- epoch_over_decode: the time to read every image from the cache in batches over the bare one.
- peak_mb, peak_mb_10x: the most memory that all processes had together for the files and for ten times as many;
  peak_10x_over_1x is their ratio.
- _detector: X-rays enlarged to 1,600 pixels, as detectors make them, where the set has thumbnails of 320 (not with
  `--quick`). _range: the lowest and highest of the turns.
- dicomweb_over_files, fhir_resources_per_s and what belongs to them: `benchmarks.sources`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers_usage import list_descendants, read_cpu_seconds, read_proportional_memory
from benchmarks.sources import measure_fhir, run_archive_step, write_instances
from benchmarks.targets import Figure, report_figures

FIGURES = (
    Figure("cpu_over_raw_decode", "<=", 1.4),
    Figure("epoch_over_decode", "<=", 0.05),
    Figure("peak_10x_over_1x", "<=", 1.2),
)
SIZE = 224
DETECTOR = 1600  # pixels
_LOOK_SECONDS = 0.1
_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer files and turns")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of dicom and fed_cxr")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](arguments.folder, arguments.workers, arguments.turns)))
        return
    with tempfile.TemporaryDirectory(prefix="fedhealth-") as folder:
        found = measure_figures(arguments.data, Path(folder), arguments.workers, quick=arguments.quick)
        report_figures(found, FIGURES)


def measure_figures(data: Path, folder: Path, workers: int, *, quick: bool) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) as they are measured."""
    step, turns = (3, 5) if quick else (1, 11)
    _write_export(data, folder / "1x", 1, step)
    files = _write_export(data, folder / "10x", 10, step)
    yield "files", files
    yield "workers", workers
    peaks = {name: _run_step("ingest", folder / name, workers)[1] for name in ("1x", "10x")}
    times = _run_step("turns", folder / "10x", workers, turns)[0]
    yield from compute_ratios(times).items()
    yield "files_per_s", files / statistics.median(times["ingest"])
    yield "peak_mb", peaks["1x"]
    yield "peak_mb_10x", peaks["10x"]
    yield "peak_10x_over_1x", peaks["10x"] / peaks["1x"]
    write_instances(folder / "pacs", 300 if quick else 2000)
    yield from _run_step("archive", folder / "pacs", workers, 3)[0].items()
    yield from measure_fhir(2000 if quick else 20_000).items()
    if not quick:
        _write_export(data, folder / "detector", 1, step, DETECTOR)
        large = compute_ratios(_run_step("turns", folder / "detector", workers, turns)[0])
        yield from ((f"{name}_detector", large[name]) for name in ("cpu_over_raw_decode", "over_raw_decode"))


def compute_ratios(times: Mapping[str, Sequence[float]]) -> dict[str, float | list[float]]:
    """Return the median ratios of the turns, and the lowest and highest of each.

    Args:
        times: the seconds of each turn, see `run_alternating_step`.

    """
    pairs = {
        "cpu_over_raw_decode": ("ingest cpu", "bare cpu"),
        "over_raw_decode": ("ingest", "bare"),
        "epoch_over_decode": ("epoch", "bare"),
    }
    found = dict[str, float | list[float]]()
    for name, (ours, bare) in pairs.items():
        ratios = [one / other for one, other in zip(times[ours], times[bare], strict=True)]
        found[name] = statistics.median(ratios)
        found[f"{name}_range"] = [round(min(ratios), 4), round(max(ratios), 4)]
    return found


def _write_export(data: Path, folder: Path, copies: int, step: int, longest: int | None = None) -> int:
    """Write a hospital's files, a table that says whose they are, and settings; return how many files there are."""
    from benchmarks.dicom_export import read_rows, write_dicom_files  # not at the top: workers import this module

    xrays, images = data / "fed_cxr", folder / "images"
    write_dicom_files(xrays, folder, read_rows(xrays)[::step], longest)
    shutil.copytree(data / "dicom" / "files", images / "corpus")
    originals = sorted(images.iterdir())
    for number in range(1, copies):
        for original in originals:
            shutil.copytree(original, images / f"{original.name}-{number}")
    names = [path.relative_to(folder / "images").as_posix() for path in sorted((folder / "images").rglob("*.dcm"))]
    with (folder / "files.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "patient", "severe"), *((name, name, len(name) % 2) for name in names)])
    (folder / "ingest.yaml").write_text(
        f"""site: bench
data: cxr
source: {{_target_: fedhealth.ingest.source.Folder, root: {folder}/images}}
select: [{{content: [image, capture, segmentation, dose, map, localizer]}}]
tables: [{{path: {folder}/files.csv, keys: {{file: file, patient: patient}}, columns: {{severe: severe}}}}]
""",
        "utf-8",
    )
    return len(names)


def _run_step(step: str, folder: Path, workers: int, turns: int = 0) -> tuple[Any, int]:
    """Run a step in a process of its own; return what it says, and the most MB that it and its children had."""
    overrides = ["--step", step, "--folder", str(folder), "--workers", str(workers), "--turns", str(turns)]
    quiet = os.environ | {"FEDHEALTH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingest", *overrides], stdout=subprocess.PIPE, env=quiet
    )
    if turns:  # looking takes time from what is timed
        process.wait()
    peak = 0
    while process.poll() is None:
        tree = [process.pid, *list_descendants(process.pid)]
        peak = max(peak, sum(map(read_proportional_memory, tree)) // 2**20)
        time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"{step} failed")
    found = json.loads(process.communicate()[0])
    return found, peak


def run_ingest_step(folder: Path, workers: int, _turns: int) -> tuple[float, float]:
    """Ingest from nothing, report and page made; return the wall and processor seconds."""
    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.ingest.ingest_files import ingest_files
    from fedhealth.ingest.report import build_ingest_report
    from fedhealth.ingest.report_page import render_page
    from fedhealth.ingest.settings import load_ingest_settings

    settings, out = load_ingest_settings(folder / "ingest.yaml"), folder / "cohort"
    data = compose_data_config(settings, out, (f"data.image.size={SIZE}", "data.max_rejected=0.5"))
    for former in (out, folder / "cache"):
        shutil.rmtree(former, ignore_errors=True)

    def ingest() -> None:
        outcome = ingest_files(settings, data, out, workers, lambda *told: None)
        render_page(build_ingest_report(outcome, data), outcome.dataset)

    return _time(ingest)


def run_bare_step(folder: Path, workers: int, _turns: int) -> tuple[float, float]:
    """Decode, resize and write each file, and nothing else; return the wall and processor seconds."""
    from benchmarks.plain_decoding import decode_all

    return _time(lambda: decode_all(folder / "images", folder / "bare.npy", SIZE, workers))


def run_alternating_step(folder: Path, workers: int, turns: int) -> dict[str, list[float]]:
    """Take turns; the first is not counted, for it imports and fills the system's file cache."""
    steps = {"ingest": run_ingest_step, "bare": run_bare_step}
    times: dict[str, list[float]] = {name: [] for name in (*steps, "epoch", "ingest cpu", "bare cpu")}
    for turn in range(turns + 1):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            wall, cpu = steps[name](folder, workers, 0)
            times[name].append(wall)
            times[f"{name} cpu"].append(cpu)
        times["epoch"].append(run_epoch_step(folder))
    return {name: each[1:] for name, each in times.items()}


def _time(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall seconds of some work, and the processor seconds of its processes, which have ended with it."""
    cpu, wall = _read_cpu_seconds(), time.perf_counter()
    work()
    return time.perf_counter() - wall, _read_cpu_seconds() - cpu


def _read_cpu_seconds() -> float:
    """Return what this process, the one that workers are forked from, and the workers that ended have used."""
    from multiprocessing.forkserver import _forkserver

    pid = getattr(_forkserver, "_forkserver_pid", None)
    return time.process_time() + (read_cpu_seconds(pid, ended=True) if pid else 0.0)


def run_epoch_step(folder: Path) -> float:
    """Read every image of the cohort once, in batches, in random order; return the seconds."""
    import numpy as np

    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.data.dataset import prepare_dataset
    from fedhealth.data.examples import build_examples, iterate_batches
    from fedhealth.ingest.settings import load_ingest_settings

    settings, out = load_ingest_settings(folder / "ingest.yaml"), folder / "cohort"
    overrides = (f"data.image.size={SIZE}", "data/source=ingested", "data.manifest=manifest.csv")
    cohort = prepare_dataset(compose_data_config(settings, out, overrides), settings.site)
    examples = build_examples(cohort, frozenset({"image"}), None)
    rows = np.flatnonzero(cohort.image_index >= 0)
    start = time.perf_counter()
    batches = iterate_batches(rows, _BATCH, np.random.default_rng(0))
    for _ in range(-(-len(rows) // _BATCH)):
        examples.batch(next(batches))
    return time.perf_counter() - start


STEPS = {"ingest": run_ingest_step, "turns": run_alternating_step, "archive": run_archive_step}

if __name__ == "__main__":
    main()
