"""What ingest costs beside bare decoding, and what an epoch from its cache costs beside decoding again.

`python -m benchmarks.ingest [--quick] [--data FOLDER]` multiplies the DICOM corpus and the X-ray set re-wrapped as
DICOM at a small detector's size, ingests them, and decodes, resizes and writes the same files with nothing around it,
with the same decoders, on the same number of processes. Each measurement runs in a process of its own; its peak counts
all of its processes. The last line is one JSON object:
`over_raw_decode` is our wall time over the bare one, `epoch_over_decode` the time to read every image from the cache in
batches over the bare one, `peak_mb` and `peak_mb_10x` the peaks for the files and for ten times as many.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.wrapped import rows_of, wrap

SIZE = 224
LONGEST = 640  # side of an X-ray in pixels; the set has thumbnails of 320, detectors have 1,000 to 4,000
_LOOK_SECONDS = 0.5  # more often would slow down what is measured
_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer files")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of dicom and fed_cxr")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](arguments.folder, arguments.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="fedhealth-") as folder:
        print(json.dumps(_measured(arguments.data, Path(folder), arguments.workers, arguments.quick)))


def _measured(data: Path, folder: Path, workers: int, quick: bool) -> dict[str, Any]:
    step = 3 if quick else 1
    counts = {name: _export(data, folder / name, copies, step) for name, copies in (("1x", 1), ("10x", 10))}
    repeats = 3 if quick else 5
    small, times = _run("ingest", folder / "1x", workers), []
    for _ in range(repeats):  # in turn, so that a busy moment of the machine meets both
        times.append([_run(each, folder / "10x", workers) for each in ("ingest", "bare")])
    large, bare = (min(each, key=lambda found: found["seconds"]) for each in zip(*times, strict=True))
    epoch = _run("epoch", folder / "10x", workers)
    return {
        "files": counts["10x"],
        "workers": workers,
        "files_per_s": round(counts["10x"] / large["seconds"], 1),
        "over_raw_decode": round(large["seconds"] / bare["seconds"], 3),
        "epoch_over_decode": round(epoch["seconds"] / bare["seconds"], 4),
        "peak_mb": small["peak_mb"],
        "peak_mb_10x": large["peak_mb"],
    }


def _export(data: Path, folder: Path, copies: int, step: int) -> int:
    """Write a hospital's files, a table that says whose they are, and settings; return how many files there are."""
    xrays, images = data / "fed_cxr", folder / "images"
    wrap(xrays, folder, rows_of(xrays)[::step], LONGEST)
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
tables: [{{path: {folder}/files.csv, keys: {{file: file, patient: patient}}, columns: {{severe: severe}}}}]
""",
        "utf-8",
    )
    return len(names)


def _run(step: str, folder: Path, workers: int) -> dict[str, float]:
    """Run a step in a process of its own; return its seconds, and the most memory that it and its children had."""
    words = ["--step", step, "--folder", str(folder), "--workers", str(workers)]
    quiet = os.environ | {"FEDHEALTH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.ingest", *words], stdout=subprocess.PIPE, env=quiet)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _tree_kilobytes(process.pid))
        time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"{step} failed")
    found = json.loads(process.communicate()[0]) | {"peak_mb": round(peak / 1024)}
    print(step, folder.name, found, file=sys.stderr)
    return found


def _tree_kilobytes(root: int) -> int:
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


def ingest_step(folder: Path, workers: int) -> dict[str, float]:
    """Ingest from nothing."""
    from fedhealth.cli.ingest import describing
    from fedhealth.ingest.run import ingest
    from fedhealth.ingest.settings import load_settings

    settings, out = load_settings(folder / "ingest.yaml"), folder / "cohort"
    shutil.rmtree(out, ignore_errors=True)
    data = describing(settings, out, (f"data.image.size={SIZE}", "data.max_rejected=0.5"))
    start = time.perf_counter()
    ingest(settings, data, out, workers, lambda *told: None)
    return {"seconds": time.perf_counter() - start}


def bare_step(folder: Path, workers: int) -> dict[str, float]:
    """Decode, resize and write each file, and nothing else."""
    paths = sorted((folder / "images").rglob("*.dcm"))
    target = folder / "bare.npy"
    shape = (len(paths), 1, SIZE, SIZE)
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    start = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedhealth.data.dicom"])
    with context.Pool(workers) as pool:
        for _ in pool.imap_unordered(partial(_decode, target), enumerate(paths), chunksize=4):
            pass
    return {"seconds": time.perf_counter() - start}


def _decode(target: Path, numbered: tuple[int, Path]) -> None:
    """Decode a file's middle frame, stretch it to 8 bits, resize it, and write it to its place."""
    import warnings

    from PIL import Image
    from pydicom import dcmread

    from fedhealth.data.decoders import stored_frame

    number, path = numbered
    warnings.simplefilter("ignore")
    try:
        dataset = dcmread(path, force=True)
        pixels = stored_frame(dataset, int(dataset.get("NumberOfFrames") or 1) // 2).astype(np.float32)
    except Exception:  # what cannot be decoded takes no time in either
        return
    low, high = pixels.min(), pixels.max()
    grey = ((pixels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    side = SIZE / max(grey.shape[:2])
    sides = (max(1, round(grey.shape[1] * side)), max(1, round(grey.shape[0] * side)))
    small = np.asarray(Image.fromarray(grey).convert("L").resize(sides, Image.Resampling.BILINEAR))
    _images(target)[number, 0, : small.shape[0], : small.shape[1]] = small


@cache
def _images(target: Path) -> np.memmap:
    return np.lib.format.open_memmap(target, mode="r+")


def epoch_step(folder: Path, workers: int) -> dict[str, float]:
    """Read every image of the cohort once, in batches, in random order."""
    from fedhealth.cli.ingest import describing
    from fedhealth.data.batches import epochs, examples_of
    from fedhealth.data.cohort import prepare
    from fedhealth.ingest.settings import load_settings

    settings, out = load_settings(folder / "ingest.yaml"), folder / "cohort"
    words = (f"data.image.size={SIZE}", "data/source=ingested", "data.manifest=manifest.csv")
    cohort = prepare(describing(settings, out, words), settings.site)
    examples = examples_of(cohort, frozenset({"image"}), None)
    rows = np.flatnonzero(cohort.image_index >= 0)
    start = time.perf_counter()
    batches = epochs(rows, _BATCH, np.random.default_rng(0))
    for _ in range(-(-len(rows) // _BATCH)):
        examples.batch(next(batches))
    return {"seconds": time.perf_counter() - start}


STEPS = {"ingest": ingest_step, "bare": bare_step, "epoch": epoch_step}

if __name__ == "__main__":
    main()
