"""Time of ingest compared with plain decoding, and time of an epoch from its cache compared with decoding again.

`python -m benchmarks.ingest [--quick] [--data FOLDER]` multiplies the DICOM corpus and the X-ray set converted to
DICOM. In turns it measures all that `fedhealth site ingest` does from scratch, an epoch from its cache, and
`benchmarks.plain_decoding` on the same files with the same number of processes; the order alternates, and the reported
ratios are medians of each turn's ratio. Worker processes are forked from one with all imports, and the configuration is
read before, so start-up time is excluded for both. Memory is measured separately, in fresh processes. The last line is
one JSON object:
`over_raw_decode` is our wall time over the bare one, `epoch_over_decode` the time to read every image from the cache
in batches over the bare one, both with the lowest and highest of the turns; `cpu_over_raw_decode` is the ratio of the
processors' time, which hardly depends on what else the machine does; `peak_mb` and `peak_mb_10x` are the most
memory that all processes had together for the files and for ten times as many; `_detector` are X-rays enlarged to
1,600 pixels, as detectors make them, where the set has thumbnails of 320 (not with `--quick`).
`dicomweb_over_files`, `fhir_resources_per_s` and what belongs to them: `benchmarks.sources`.
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
from pathlib import Path
from typing import Any

from benchmarks.sources import measure_fhir, run_archive_step, write_instances

SIZE = 224
DETECTOR = 1600  # pixels
_LOOK_SECONDS = 0.1
_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        print(json.dumps(_run_measurements(arguments.data, Path(folder), arguments.workers, arguments.quick)))


def _run_measurements(data: Path, folder: Path, workers: int, quick: bool) -> dict[str, Any]:
    step, turns = (3, 5) if quick else (1, 11)
    _write_export(data, folder / "1x", 1, step)
    files = _write_export(data, folder / "10x", 10, step)
    peaks = {name: _run_step("ingest", folder / name, workers)[1] for name in ("1x", "10x")}
    found = {"files": files, "workers": workers} | _measure_ratios(folder / "10x", workers, turns, files)
    found |= {"peak_mb": peaks["1x"], "peak_mb_10x": peaks["10x"]}
    write_instances(folder / "pacs", 300 if quick else 2000)
    found |= _run_step("archive", folder / "pacs", workers, 3)[0] | measure_fhir(2000 if quick else 20_000)
    if not quick:
        count = _write_export(data, folder / "detector", 1, step, DETECTOR)
        large = _measure_ratios(folder / "detector", workers, turns, count)
        found |= {f"{name}_detector": large[name] for name in ("files_per_s", "over_raw_decode")}
    return found


def _measure_ratios(folder: Path, workers: int, turns: int, files: int) -> dict[str, Any]:
    times = _run_step("turns", folder, workers, turns)[0]
    over = [ours / bare for ours, bare in zip(times["ingest"], times["bare"], strict=True)]
    cpu = [ours / bare for ours, bare in zip(times["ingest cpu"], times["bare cpu"], strict=True)]
    epoch = [ours / bare for ours, bare in zip(times["epoch"], times["bare"], strict=True)]
    return {
        "files_per_s": round(files / statistics.median(times["ingest"]), 1),
        "over_raw_decode": round(statistics.median(over), 3),
        "over_raw_decode_range": [round(min(over), 3), round(max(over), 3)],
        "cpu_over_raw_decode": round(statistics.median(cpu), 3),
        "epoch_over_decode": round(statistics.median(epoch), 4),
        "epoch_over_decode_range": [round(min(epoch), 4), round(max(epoch), 4)],
    }


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
        peak = max(peak, _measure_tree_kilobytes(process.pid))
        time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"{step} failed")
    found = json.loads(process.communicate()[0])
    print(step, folder.name, found, round(peak / 1024) or "", file=sys.stderr)
    return found, round(peak / 1024)


def _measure_tree_kilobytes(root: int) -> int:
    """Return the memory that a process and its descendants have for themselves or share in parts (PSS)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting, total = [root], 0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total


def run_ingest_step(folder: Path, workers: int, _turns: int) -> float:
    """Ingest from nothing, report and page made; return the seconds."""
    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.ingest.ingest_files import ingest_files
    from fedhealth.ingest.report import build_ingest_report
    from fedhealth.ingest.report_page import render_page
    from fedhealth.ingest.settings import load_ingest_settings

    settings, out = load_ingest_settings(folder / "ingest.yaml"), folder / "cohort"
    data = compose_data_config(settings, out, (f"data.image.size={SIZE}", "data.max_rejected=0.5"))
    for former in (out, folder / "cache"):
        shutil.rmtree(former, ignore_errors=True)
    start = time.perf_counter()
    outcome = ingest_files(settings, data, out, workers, lambda *told: None)
    render_page(build_ingest_report(outcome, data), outcome.dataset)
    return time.perf_counter() - start


def run_alternating_step(folder: Path, workers: int, turns: int) -> dict[str, list[float]]:
    """Take turns; the first is not counted, for it imports and fills the system's file cache."""
    steps = {"ingest": run_ingest_step, "bare": run_bare_step}
    times: dict[str, list[float]] = {name: [] for name in (*steps, "epoch", "ingest cpu", "bare cpu")}
    for turn in range(turns + 1):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            before = _read_cpu_seconds()
            times[name].append(steps[name](folder, workers, 0))
            times[f"{name} cpu"].append(_read_cpu_seconds() - before)
        times["epoch"].append(run_epoch_step(folder))
    return {name: each[1:] for name, each in times.items()}


def _read_cpu_seconds() -> float:
    """Return what this process, the one that workers are forked from, and the workers that ended have used."""
    from multiprocessing.forkserver import _forkserver

    pid = getattr(_forkserver, "_forkserver_pid", None)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15] if pid else []
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def run_bare_step(folder: Path, workers: int, _turns: int) -> float:
    """Decode, resize and write each file, and nothing else; return the seconds."""
    from benchmarks.plain_decoding import decode_all

    start = time.perf_counter()
    decode_all(folder / "images", folder / "bare.npy", SIZE, workers)
    return time.perf_counter() - start


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
