"""Shared noise: what a share costs beside a site's own noise, how large it is, and what models gain.

    python -m benchmarks.shared_noise [--quick]

Prints a table and, as the last line, one JSON object. `--quick` takes fewer values, rounds and seeds and leaves the
skin lesions out, which need fed_derm and image_encoder in the folder of `--data`. Each arm's settings are chosen on the
validation patients; see `benchmarks.shared_noise_derm` and `benchmarks.shared_noise_demo`.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import private_scores
from benchmarks.shared_noise_demo import Demo, measure_demo
from benchmarks.shared_noise_derm import load_patients, measure_gain
from benchmarks.timing import measure_cpu_seconds
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, count_score_cells
from fedhealth.evaluation.predictions import ScoreHistograms, compute_histogram_metrics, count_scores
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts
from fedhealth.privacy.shared_release import draw_shared_tables
from fedhealth.secagg.primitives import masks
from fedhealth.secagg.primitives.layout import Segment, make_model_segment, make_noised_segment
from fedhealth.secagg.primitives.noise_grid import BLANK_VALUES, compute_grid_step, name_blanks
from fedhealth.secagg.primitives.quantize import dequantize, quantize
from strategies.statistics import read_score_counts

SITES, SHARES, NOISE_STD = 4, 3, 2.0
HEART = private_scores.Setting(epsilon=8.0, patients=64, prevalence=0.53, slope=1.0)  # 254 test patients in all
TARGETS = {
    "noise_mask_24bit_over_today": ("<=", 1.0),
    "std_ratio": ("within .005 of", 1.0),
    "heart_interval_coverage": (">=", 0.92),
    "derm_eps1_gain": (">=", 0.008),
    "demo_200_rounds_seconds": ("<=", 150.0),
    "demo_gain_over_local_seeds_low": (">", 0.0),
    "demo_gain_over_single_seeds_low": (">", 0.0),
}


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
    """Return the CPU time of share, rounding and masks, relative to whole noise, quantization and masks.

    Both are measured in turn, and the shortest of each counts.
    """
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

    times = [(measure_cpu_seconds(protect_shared), measure_cpu_seconds(protect_own)) for _ in range(7)]
    return min(shared for shared, _ in times) / min(own for _, own in times)


def measure_noise_ratio(values: int) -> float:
    """Return the size of an opened sum's noise, relative to the promised one."""
    _, segment = make_segments(values)
    source, total = NoiseSource(), np.zeros(segment.words, segment.dtype)
    for _ in range(SITES):
        total += quantize(segment, draw_all(segment, torch.zeros(values), source), 0)
    found = dequantize(segment, total, 0)["w"].std()
    return float(found) / (NOISE_STD * math.sqrt(SITES / SHARES))


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


def run_measurements(folder: Path, data: Path, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield the figures."""
    values, rounds, seeds, tried_seeds = (1_000_000, 20, 2, 1) if quick else (10_000_000, 200, 5, 2)
    yield "noise_mask_24bit_over_today", compare_protection(values)
    yield "std_ratio", measure_noise_ratio(4_000_000)
    yield "heart_interval_coverage", measure_interval_coverage(60 if quick else 300)
    if not quick and (data / "fed_derm").is_dir():
        yield from measure_gain(load_patients(data, folder / "cache"), epsilon=1.0, seeds=16)
    yield from measure_demo(Demo.create(folder, rounds, seeds, tried_seeds))


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, value in run_measurements(Path(folder), options.data, options.quick):
            found[key] = round(value, 4)
            print(f"{key:40} {value:10.4f}  {' '.join(map(str, TARGETS.get(key, ())))}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
