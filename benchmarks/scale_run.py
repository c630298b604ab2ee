"""Runs for the scale benchmarks: one table of made-up patients for any number of hospitals, and the job of a run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fedhealth.protocol.job import Job

ROWS = 40  # of a hospital
_COLUMNS = ["hospital", "patient", "note", "label", "age", "sex", "crp", "ldh", "lymphocytes", "spo2"]
_OVERRIDES = [
    "model.image=null",
    "model.dim=8",
    "model.fusion.hidden=8",
    "privacy=none",
    "training.threads=1",
    "training.local_steps=1",
    "training.batch_size=8",
    "evaluation.bootstrap=10",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "data.manifest=patients.csv",
    "data.site_column=hospital",
    "data.columns={patient: patient, study: null, image: null, text: note, labels: [label]}",
]
TABULAR = ["model.text=null", "data.columns.text=null"]
WORDS = ["model/text=words", "model.text.dropout=0", "model.text.hidden=16"]
WIDTH = 16  # values of one word: what `WORDS` sets


def write_hospitals(folder: Path, sites: int) -> list[str]:
    """Write one table with the patients of all hospitals; return the overrides of a run on it."""
    folder.mkdir(parents=True)
    names, generator = [f"h{number:03d}" for number in range(sites)], np.random.default_rng(0)
    with (folder / "patients.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for site in names:
            for number in range(ROWS):
                label, word = number % 2, generator.integers(1000)
                note = f"word{word} {'worse, oxygen given' if label else 'better, walks about'}"
                values = [generator.integers(20, 90), "F", 30 + 50 * label, 300, 1.2, 95]
                writer.writerow([site, f"{site}-{number}", note, label, *values])
    where = [f"data.root='{folder}'", f"data.cache='{folder / 'cache'}'"]
    return [*_OVERRIDES, *where, f"data.sites=[{','.join(names)}]"]


def make_words(values: int) -> list[str]:
    """Return the overrides of a model whose word embeddings have about this many values."""
    return [*WORDS, f"model.text.buckets={values // WIDTH}"]


def make_job(folder: Path, overrides: Sequence[str]) -> Job:
    """Return the job of a run in a new folder."""
    from fedhealth.experiment.run_spec import RunSpec
    from fedhealth.runs.run_dir import RunDir

    spec = RunSpec.compose(overrides, RunDir(folder))
    spec.check()
    spec.run_dir.create(run=spec.run_id)
    return spec.job
