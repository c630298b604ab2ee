"""The data of `benchmarks.peers`: for our own run a table (and images), for all others the same values as arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers_contestants.task import SIDE, SITES

ROWS = {"train": 480, "test": 200}  # of a site
# As in conf/data/demo.yaml: centre and scale.
VARIABLES = {"age": (60, 15), "crp": (50, 50), "ldh": (300, 120), "lymphocytes": (1.3, 0.6), "spo2": (94, 4)}


def write_tabular(folder: Path) -> None:
    """Write a table of clinical variables, and the features that our encoding makes of them."""
    generator = np.random.default_rng(0)
    rows, arrays = [], {}
    for site in SITES:
        for split, count in ROWS.items():
            labels, values = _draw_labels(generator, count), np.zeros((count, len(VARIABLES)))
            for place, (center, scale) in enumerate(VARIABLES.values()):
                values[:, place] = center + scale * (generator.normal(size=count) + 0.5 * (labels - 0.5))
            values = np.round(values, 3)
            rows += [[site, f"{site}{split}{n}", split, int(labels[n]), *values[n]] for n in range(count)]
            arrays[site, split] = _encode(values), labels
    _write_table(folder, rows, [*VARIABLES])
    _write_arrays(folder, arrays)


def write_images(folder: Path) -> None:
    """Write grey images of noise, brighter in the middle where the label is 1, as files and as arrays."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows, arrays = [], {}
    spot = 12 * np.exp(-((np.indices((SIDE, SIDE)) - SIDE / 2) ** 2).sum(0) / 40)
    for site in SITES:
        for split, count in ROWS.items():
            labels = _draw_labels(generator, count)
            noise = generator.normal(128, 40, (count, SIDE, SIDE))
            pixels = np.clip(noise + labels[:, None, None] * spot, 0, 255).astype(np.uint8)
            for number in range(count):
                name = f"images/{site}{split}{number}.png"
                Image.fromarray(pixels[number]).save(folder / name)
                rows.append([site, f"{site}{split}{number}", split, int(labels[number]), name])
            arrays[site, split] = pixels[:, None], labels
    _write_table(folder, rows, ["image"])
    _write_arrays(folder, arrays)


def _draw_labels(generator: np.random.Generator, count: int) -> np.ndarray:
    return (generator.random(count) < 0.4).astype(np.float32)


def _encode(values: np.ndarray) -> np.ndarray:
    """Return (value - centre) / scale and a column that says what is missing, for each variable: float32 [N, 2 V]."""
    centers, scales = np.array([*VARIABLES.values()]).T
    scaled = (values - centers) / scales
    return np.stack([scaled, np.zeros_like(scaled)], axis=2).reshape(len(values), -1).astype(np.float32)


def _write_table(folder: Path, rows: list[list[object]], columns: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "patients.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["hospital", "patient", "split", "label", *columns])
        writer.writerows(rows)


def _write_arrays(folder: Path, arrays: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> None:
    for site in SITES:
        stored: dict[str, np.ndarray] = {}
        for split in ROWS:
            inputs, labels = arrays[site, split]
            stored |= {f"{split}_inputs": inputs, f"{split}_labels": labels[:, None]}
        np.savez(folder / f"{site}.npz", allow_pickle=False, **stored)


WRITERS = {"tabular": write_tabular, "image": write_images}
