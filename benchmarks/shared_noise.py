"""Shared noise: what a share costs beside a site's own noise, and many short rounds of the demo.

    python -m benchmarks.shared_noise [--quick]

Prints a table and, as the last line, one JSON object. `--quick` uses fewer values and rounds, and one seed. Skin
lesions need fed_derm and image_encoder in the folder of `--data`; each arm's settings are chosen on its validation
patients. The demo's settings are the ones of the specification, the same for both kinds of noise; nothing was chosen.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import private_scores
from benchmarks.shared_noise_derm import load_patients, measure_gain
from benchmarks.timing import measure_seconds
from fedhealth.cli.run import DEMO_PATIENTS
from fedhealth.data.synthetic import write_hospitals
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, count_score_cells
from fedhealth.evaluation.predictions import ScoreHistograms, compute_histogram_metrics, count_scores
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts
from fedhealth.privacy.shared_release import draw_shared_tables
from fedhealth.runs.run_dir import RunDir
from fedhealth.secagg.primitives import masks
from fedhealth.secagg.primitives.layout import Segment, make_model_segment, make_noised_segment
from fedhealth.secagg.primitives.noise_grid import BLANK_VALUES, compute_grid_step, name_blanks
from fedhealth.secagg.primitives.quantize import dequantize, quantize
from strategies.statistics import read_score_counts

SITES, SHARES, NOISE_STD = 4, 3, 2.0
HEART = private_scores.Setting(epsilon=8.0, patients=64, prevalence=0.53, slope=1.0)  # 254 test patients in all
TARGETS = {
    "noise_mask_24bit_over_today": ("<=", 1.0),
    "std_ratio_error": ("<=", 0.005),
    "heart_interval_coverage": (">=", 0.92),
    "derm_eps1_gain": (">=", 0.008),
    "demo_200_rounds_seconds": ("<=", 150.0),
}
DEMO = (
    *("experiment=demo", "method=fedsgd", "training.local_steps=1", "secagg=on"),
    *("privacy.sample_rate=0.485", "training.optimizer.lr=0.015", "evaluation.audit=false"),
    *(f"baselines.{name}=false" for name in ("local_only", "centralised", "modalities")),
)


def make_segments(values: int) -> tuple[Segment, Segment]:
    """Return the segment of a site's own noise and that of a shared one."""
    own = make_model_segment("m", "m", {"w": values}, bound=8.0, bits=32, sites=SITES, normaliser=SITES * 2**16)
    return own, make_noised_segment("m", "m", {"w": values}, noise_std=NOISE_STD, shares=SHARES, bits=24, sites=SITES)


def get_share(segment: Segment) -> NoiseShare:
    """Return a site's share of a segment's noise."""
    entry = segment.entries[0]
    return NoiseShare(segment.share_std, entry.step, entry.bound, segment.shares)


def draw_all(segment: Segment, total: torch.Tensor, source: NoiseSource) -> dict[str, np.ndarray]:
    """Return what a site adds to a segment: its values and the blanks, with its share of the noise."""
    share, blanks = get_share(segment), torch.zeros(BLANK_VALUES)
    return {"w": draw_share(total, share, source), name_blanks(segment.name): draw_share(blanks, share, source)}


def compare_protection(values: int) -> float:
    """Return the time of share, rounding and masks, relative to whole noise, quantization and masks."""
    own, shared = make_segments(values)
    source, total = NoiseSource(), torch.zeros(values)
    keys = [os.urandom(32) for _ in range(SITES)]

    def protect_own() -> None:
        noised = source.add_(total.clone(), NOISE_STD) / 100
        words = quantize(own, {"w": noised.numpy()}, 2**16)
        masks.apply_masks(words, keys[:2], keys[2:])

    def protect_shared() -> None:
        words = quantize(shared, draw_all(shared, total, source), 2**16)
        masks.apply_masks(words, keys[:2], keys[2:])

    return measure_seconds(protect_shared, 3) / measure_seconds(protect_own, 3)


def measure_noise(values: int) -> float:
    """Return how far the noise of an opened sum is from the promised size, relatively."""
    _, segment = make_segments(values)
    source, total = NoiseSource(), np.zeros(segment.words, segment.dtype)
    for _ in range(SITES):
        total += quantize(segment, draw_all(segment, torch.zeros(values), source), 0)
    found = dequantize(segment, total, 0)["w"].std()
    return abs(float(found) / (NOISE_STD * math.sqrt(SITES / SHARES)) - 1)


def release_with_shares(setting: private_scores.Setting, seed: int) -> ScoreHistograms:
    """Return what the lead reads of a sum of score histograms whose noise the hospitals share."""
    multiplier, cells = private_scores.compute_noise_multiplier(setting.epsilon), count_score_cells(setting.epsilon)
    std = multiplier / math.sqrt(SHARES)
    share = NoiseShare(std, compute_grid_step(std), 1e9, SHARES)
    summed: dict[str, np.ndarray] = {}
    for site in range(SITES):
        drawn = private_scores.draw_predictions(setting, setting.patients, np.random.default_rng([seed, site]))
        counts = count_scores(drawn, cells, NOISED_LOGIT_LIMIT)
        tables = {"test.positives": counts.positives, "test.negatives": counts.negatives}
        for name, words in draw_shared_tables(tables, dict.fromkeys(tables, share)).items():
            real = words if name.endswith(NOISE) else encode_counts(words.reshape(1, -1) * share.step)
            summed[name] = summed.get(name, 0) + real
    return read_score_counts(summed)["test"]


def measure_interval_coverage(releases: int) -> float:
    """Return how often the AUROC's 95 % interval holds the true one, for as many patients as fed_heart tests."""
    truth, hits = private_scores.compute_true_metrics(HEART)["auroc"], 0
    for seed in range(releases):
        found = compute_histogram_metrics(release_with_shares(HEART, seed), private_scores.RESAMPLES, seed)["auroc"]
        hits += found.low <= truth <= found.high  # one that is not reported counts as a miss
    return hits / releases


def run_demo(folder: Path, noise: Literal["local", "shared"], rounds: int, seed: int) -> tuple[float, float]:
    """Return the seconds of a run of the demo and its exact pooled test AUROC."""
    hospitals = folder / "hospitals"
    if not hospitals.exists():
        write_hospitals(hospitals, seed=0, patients=DEMO_PATIENTS)
    run = RunDir(folder / f"{noise}-{rounds}-{seed}")
    words = (f"data.root='{hospitals}'", f"strategy.rounds={rounds}", f"privacy.noise={noise}", f"seed={seed}")
    started = time.monotonic()
    launch_run(RunSpec.compose([*DEMO, *words], run))
    seconds = time.monotonic() - started
    scores = json.loads((run.path / "comparison.json").read_text())["models"][0]["pooled"]
    return seconds, float(scores["auroc"]["value"])


def run_measurements(folder: Path, data: Path, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield the figures."""
    values, rounds, seeds = (1_000_000, 20, 1) if quick else (10_000_000, 200, 5)
    yield "noise_mask_24bit_over_today", compare_protection(values)
    yield "std_ratio_error", measure_noise(4_000_000)
    yield "heart_interval_coverage", measure_interval_coverage(60 if quick else 300)
    if not quick and (data / "fed_derm").is_dir():
        yield from measure_gain(load_patients(data, folder / "cache"), epsilon=1.0, seeds=16)
    run_demo(folder, "shared", 1, 0)  # decodes the images
    found = {noise: [run_demo(folder, noise, rounds, seed) for seed in range(seeds)] for noise in ("shared", "local")}
    yield f"demo_{rounds}_rounds_seconds", max(seconds for seconds, _ in found["shared"])
    for noise, results in found.items():
        yield f"demo_fused_{noise}", float(np.mean([score for _, score in results]))


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    table, found = Table("Figure", "Value", "Target"), {}
    with tempfile.TemporaryDirectory() as folder:
        for key, value in run_measurements(Path(folder), options.data, options.quick):
            found[key] = round(value, 4)
            table.add_row(key, f"{value:.4f}", " ".join(map(str, TARGETS.get(key, ()))))
    Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
