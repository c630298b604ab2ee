"""Accuracy lost to differential privacy on real hospitals' data, and gained by a modality or a trained image tower.

`python -m benchmarks.dp_utility [--only STUDY ...] [--quick] [--data FOLDER]` prints a table and, as its last line, one
JSON object. FOLDER holds fed_heart, fed_derm and image_encoder; studies without data are skipped. Studies:

heart     accuracy on FLamby's four hospitals, compared with the published curve
derm      pooled AUROC on four sources of skin lesions
finetuned the same at epsilon 8 in fewer rounds: gain of training the image tower's last block over freezing it
notes     gain in the demo's AUROC from its notes, at epsilon 8

A gain is the mean difference over seeds, with two 95 % intervals: Student's t over the seeds (randomness of training:
noise, initialisation, order), and a paired bootstrap over the test patients (sampling of the test set).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

if TYPE_CHECKING:
    from fedhealth.evaluation.predictions import Predictions
    from fedhealth.experiment.baselines import BaselineData

# FLamby (Ogier du Terrail et al., NeurIPS 2022), fed_heart_disease: accuracy, mean of 5 seeds, delta 1e-4.
FLAMBY = {"none": 0.712, "1": 0.685, "constant": 0.637}
OPEN = ["secagg=off", "baselines.local_only=false", "baselines.centralised=false", "baselines.modalities=false"]
RUN = [*OPEN, "training.threads=1", "evaluation.bootstrap=10"]
# The last block that is used of mobilenet_v2; its batch normalisation keeps the pretrained statistics. Clipped with it,
# the block's gradients would leave the classifier little: by towers it keeps the bound of 5 that it has when frozen.
LAST_BLOCK = [
    "model.image.train=[features.17]",
    "model.image.norm=freeze",
    "training.encoder_lr=0.05",
    "privacy.clipping=tower",
    "privacy.max_grad_norm=8.66",
    "privacy.max_physical_batch_size=128",
]
# For both arms: the block is recomputed in every step, about ten seconds per round on one core.
FEWER = ["strategy.rounds=8", "training.optimizer.lr=0.6"]

RESAMPLES = 1000

Figures = Iterator[tuple[str, float]]


def make_privacy_overrides(epsilon: float | None, *more: str) -> list[str]:
    """Return the overrides for an epsilon; None = no privacy."""
    return ["privacy=none"] if epsilon is None else ["privacy=patient", f"privacy.epsilon={epsilon}", *more]


def run_and_predict(overrides: Sequence[str], folder: Path) -> Predictions:
    """Run a federation and return its final model's predictions for all hospitals' test patients."""
    from fedhealth.evaluation.pooling import pool_predictions

    return pool_predictions(list(run_federation(overrides, folder).predict().values()))


def run_federation(overrides: Sequence[str], folder: Path) -> BaselineData:
    """Run a federation and return its final model with all hospitals' data."""
    from safetensors.numpy import load_file

    from fedhealth.config.compose import compose_config, compute_config_digest
    from fedhealth.experiment.baselines import BaselineData
    from fedhealth.experiment.launch import launch_run
    from fedhealth.experiment.run_spec import RunSpec
    from fedhealth.models.model_state import set_model_arrays
    from fedhealth.protocol.job import Job, compose_job_config
    from fedhealth.runs.run_dir import RunDir

    launch_run(RunSpec.compose(overrides, RunDir(folder)))
    bench = BaselineData.prepare(
        compose_job_config(
            Job("bench", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))
        )
    )
    set_model_arrays(bench.model, load_file(folder / "model.safetensors"))
    return bench


def run_over_seeds(overrides: Sequence[str], folder: Path, seeds: int) -> list[Predictions]:
    """Return the predictions of one federation per seed."""
    return [run_and_predict([*overrides, f"seed={seed}"], folder / str(seed)) for seed in range(seeds)]


def compute_aurocs(found: Predictions, resamples: int = 0) -> np.ndarray:
    """Return the AUROC, followed by those of bootstrap resamples of the patients; all models share the resamples."""
    from fedhealth.evaluation.predictions import bootstrap_metrics

    return bootstrap_metrics(found, resamples)["auroc"]


def mean_auroc(found: Sequence[Predictions]) -> float:
    """Return the mean AUROC over seeds."""
    return float(np.mean([compute_aurocs(each)[0] for each in found]))


def mean_accuracy(found: Sequence[Predictions]) -> float:
    """Return the mean accuracy over seeds, at a threshold of one half."""
    return float(np.mean([((each.scores[:, 0] > 0.5) == (each.labels[:, 0] == 1)).mean() for each in found]))


def compare_arms(name: str, base: str, first: Sequence[Predictions], second: Sequence[Predictions]) -> Figures:
    """Yield the mean AUROC of two arms over seeds, and the difference with its two intervals."""
    yield name, mean_auroc(first)
    yield base, mean_auroc(second)
    yield from estimate_gain(f"{name}_gain", first, second)


def estimate_gain(name: str, first: Sequence[Predictions], second: Sequence[Predictions]) -> Figures:
    """Yield the mean difference of the AUROC of two arms, whose seeds are paired, with its two intervals."""
    draws = np.array(
        [
            compute_aurocs(one, RESAMPLES) - compute_aurocs(other, RESAMPLES)
            for one, other in zip(first, second, strict=True)
        ]
    )
    by_seed, by_patients = draws[:, 0], draws[:, 1:].mean(axis=0)
    half = float(student.ppf(0.975, len(by_seed) - 1)) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
    yield name, float(by_seed.mean())
    yield f"{name}_seeds_low", float(by_seed.mean() - half)
    yield f"{name}_seeds_high", float(by_seed.mean() + half)
    yield f"{name}_patients_low", float(np.nanpercentile(by_patients, 2.5))
    yield f"{name}_patients_high", float(np.nanpercentile(by_patients, 97.5))


def measure_heart(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield accuracy on FLamby's four hospitals, mean over seeds."""
    base = ["experiment=heart", f"data.root='{data / 'fed_heart'}'", f"data.cache='{scratch / 'cache'}'", *RUN]
    for epsilon in (None, 1.0, 0.1):
        name = "none" if epsilon is None else f"{epsilon:g}"
        overrides = [*base, *make_privacy_overrides(epsilon, "privacy.delta=1e-4")]
        found = run_over_seeds(overrides, scratch / f"heart-{name}", seeds)
        yield f"heart_accuracy_{name}", mean_accuracy(found)
        yield f"heart_auroc_{name}", mean_auroc(found)
    ill = float((found[0].labels[:, 0] == 1).mean())
    yield "heart_accuracy_constant", max(ill, 1 - ill)


def measure_derm(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield pooled AUROC on four real sources of skin lesions, frozen ImageNet features, mean over seeds."""
    for epsilon in (None, 8.0, 1.0):
        name = "none" if epsilon is None else f"{epsilon:g}"
        overrides = _derm_overrides(data, *make_privacy_overrides(epsilon))
        yield f"derm_auroc_{name}", mean_auroc(run_over_seeds(overrides, scratch / f"derm-{name}", seeds))


def measure_fine_tuning(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield pooled AUROC on skin lesions at epsilon 8, the image tower's last block trained and frozen."""
    overrides = _derm_overrides(data, *make_privacy_overrides(8.0), *FEWER)
    trained, frozen = (
        run_over_seeds([*overrides, *more], scratch / arm, seeds)
        for arm, more in (("trained", LAST_BLOCK), ("frozen", []))
    )
    yield from compare_arms("derm_auroc_8_last_block", "derm_auroc_8_frozen", trained, frozen)


def measure_notes(data: Path, scratch: Path, seeds: int) -> Figures:
    """Yield the demo's pooled AUROC at epsilon 8 with its notes and without."""
    from fedhealth.cli.run import DEMO_PATIENTS
    from fedhealth.data.synthetic import write_hospitals

    write_hospitals(scratch / "hospitals", patients=DEMO_PATIENTS)
    places = [f"data.root='{scratch / 'hospitals'}'", f"data.cache='{scratch / 'cache'}'"]
    overrides = ["experiment=demo", *places, *RUN]
    read, unread = (
        run_over_seeds([*overrides, *more], scratch / arm, seeds)
        for arm, more in (("with", []), ("without", ["model.text=null"]))
    )
    yield from compare_arms("demo_auroc_8_notes", "demo_auroc_8_no_notes", read, unread)


def _derm_overrides(data: Path, *more: str) -> list[str]:
    weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    places = [f"data.root='{data / 'fed_derm'}'", f"model.image.weights='{weights}'"]
    return ["experiment=derm", *places, *RUN, *more]


# For each study: the folder of its data, and the number of seeds.
STUDIES: dict[str, tuple[Callable[[Path, Path, int], Figures], str, int]] = {
    "heart": (measure_heart, "fed_heart", 5),
    "derm": (measure_derm, "fed_derm", 3),
    "finetuned": (measure_fine_tuning, "fed_derm", 3),
    "notes": (measure_notes, "", 5),
}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="default: all but finetuned")
    parser.add_argument("--seeds", type=int, help="at least 2; default: each study's own")
    parser.add_argument("--quick", action="store_true", help="heart alone, two seeds")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 2:
        parser.error("--seeds: an interval takes at least 2")
    chosen = options.only or (["heart"] if options.quick else [name for name in STUDIES if name != "finetuned"])
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for study, needs, usual in (STUDIES[name] for name in chosen):
            if needs and not (options.data / needs).is_dir():
                continue
            started = time.monotonic()
            for name, value in study(options.data, Path(folder), options.seeds or (2 if options.quick else usual)):
                found[name] = round(value, 4)
                print(f"{name:40} {value:.3f}  ({time.monotonic() - started:.0f} s)", flush=True)
    if "heart" in chosen:
        for name, value in FLAMBY.items():
            print(f"{f'FLamby heart {name}':40} {value:.3f}  (published accuracy)")
            found[f"flamby_heart_{name}"] = value
    print(json.dumps(found))


if __name__ == "__main__":
    main()
