"""Compare methods against heterogeneity on real hospitals' data.

`python -m benchmarks.heterogeneity [--quick] [--data FOLDER]` trains local-only models, federations with every method,
and a centralised model, over five seeds, and prints mean within-site and pooled test scores with standard deviations.
The best method (and the best of its settings) is chosen on validation rows. Differences are paired over seeds, with a
95 % interval by Student's t. The last line is one JSON object.

Secure aggregation is off: it changes the fifth digit. fed_derm is scored by AUROC, fed_heart by accuracy at 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

COMMON = ["secagg=off", "training.threads=1", "baselines.local_only=false", "baselines.centralised=false"]
# FLamby (Ogier du Terrail et al., NeurIPS 2022): best federated strategy, mean of clients and pooled; FedAvg's.
FLAMBY_HEART = {"best": (0.731, 0.779), "fedavg": (0.685, 0.748)}
ALONE, FEDAVG, CENTRALISED = "alone", "fedavg", "centralised"
METHODS: dict[str, list[list[str]]] = {
    FEDAVG: [[]],
    "fedprox": [["personalization=fedprox", f"personalization.mu={mu}"] for mu in (0.01, 0.1)],
    "fedprox_adaptive": [["method=fedprox_adaptive"]],
    "scaffold": [["method=scaffold"]],
    "fedbn": [["personalization=fedbn"]],
    "fedper": [["personalization=fedper"]],
    "fedrep": [["personalization=fedrep"]],
    "fedtower": [["personalization=fedtower", "personalization.tower=tabular"]],
    "ditto": [["personalization=ditto", f"personalization.weight={weight}"] for weight in (0.01, 0.1)],
    "mr_mtl": [["personalization=mr_mtl", f"personalization.weight={weight}"] for weight in (0.01, 0.1)],
    "apfl": [["personalization=apfl"]],
    "finetune": [["personalization=finetune"]],
}


@dataclass(frozen=True)
class StudyDataset:
    """One data set.

    Attributes:
        name: its name.
        overrides: of its experiment.
        score: of predictions.
        held_out: overrides that hold validation rows out of the training rows; methods are then chosen by separate
            runs. Empty if the data set has validation rows.
        without: methods that cannot work there: fedrep needs more than the one step of a round.

    """

    name: str
    overrides: list[str]
    score: Callable[[Any], float]
    held_out: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingScores:
    """Scores of one training: mean over sites on validation rows, on test rows, and pooled on test rows."""

    validation: float
    within: float
    pooled: float


def compute_auroc(predictions: Any) -> float:
    """Return the area under the curve, NaN with one class."""
    from fedhealth.evaluation.predictions import compute_metrics

    value = compute_metrics(predictions, 1)["auroc"].value
    return float("nan") if value is None else float(value)


def compute_accuracy(predictions: Any) -> float:
    """Return the accuracy at a threshold of one half."""
    if not len(predictions.labels):
        return float("nan")
    return float(((predictions.scores[:, 0] > 0.5) == (predictions.labels[:, 0] == 1)).mean())


def list_studies(data: Path, cache: Path) -> Iterator[StudyDataset]:
    """Yield the data sets that are available."""
    shared = [f"data.cache='{cache}'", *COMMON]
    if (data / "fed_heart").is_dir():
        overrides = ["experiment=heart", f"data.root='{data / 'fed_heart'}'", *shared]
        yield StudyDataset("heart", overrides, compute_accuracy, ("data.split.validation=0.25",), ("fedrep",))
    if (data / "fed_derm").is_dir():
        weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
        overrides = ["experiment=derm", f"data.root='{data / 'fed_derm'}'", f"model.image.weights='{weights}'"]
        yield StudyDataset("derm", [*overrides, *shared], compute_auroc)


def train_federated(study: StudyDataset, overrides: Sequence[str]) -> TrainingScores:
    """Run a federation and score every site's own model."""
    with tempfile.TemporaryDirectory() as folder:
        found = _run_federation(study, overrides, Path(folder))
    if not study.held_out:
        return found
    with tempfile.TemporaryDirectory() as folder:
        return replace(found, validation=_run_federation(study, [*overrides, *study.held_out], Path(folder)).validation)


def _run_federation(study: StudyDataset, overrides: Sequence[str], folder: Path) -> TrainingScores:
    from safetensors.numpy import load_file

    from fedhealth.config.instantiate import instantiate
    from fedhealth.experiment.baselines import BaselineData
    from fedhealth.models.model_state import set_model_arrays
    from fedhealth.protocol.job import compose_job_config
    from fedhealth.runs.run_dir import RunDir

    job, run = _make_job(overrides, folder), RunDir(folder)
    run.create(run=job.run, name=study.name, digest=job.digest)
    config = compose_job_config(job)
    instantiate(config.runtime).launch(job)
    bench = BaselineData.prepare(config)
    set_model_arrays(bench.model, load_file(folder / "model.safetensors"))
    return _compute_scores(study, bench.predict(run, "validation"), bench.predict(run))


def train_baseline(study: StudyDataset, overrides: Sequence[str], name: str) -> TrainingScores:
    """Train a local-only model for every site, or one model on all rows."""
    from fedhealth.experiment.baselines import BaselineData
    from fedhealth.protocol.job import compose_job_config

    bench = BaselineData.prepare(compose_job_config(_make_job(overrides, Path())))
    if name == CENTRALISED:
        bench.train_on(list(bench.cohorts))
        return _compute_scores(study, bench.predict(split="validation"), bench.predict())
    validation, test, pooled = {}, {}, []
    for site in bench.cohorts:
        bench.train_on([site])
        everywhere = bench.predict()
        validation[site], test[site] = bench.predict(split="validation")[site], everywhere[site]
        pooled.append(_compute_scores(study, everywhere, everywhere).pooled)
    found = _compute_scores(study, validation, test)
    return TrainingScores(
        found.validation, found.within, float(np.mean(pooled))
    )  # local-only models, on all test patients


def _compute_scores(study: StudyDataset, validation: Mapping[str, Any], test: Mapping[str, Any]) -> TrainingScores:
    from fedhealth.evaluation.pooling import pool_predictions

    pooled = study.score(pool_predictions(list(test.values())))
    return TrainingScores(_mean_over_sites(study, validation), _mean_over_sites(study, test), pooled)


def _mean_over_sites(study: StudyDataset, scored: Mapping[str, Any]) -> float:
    """Return the mean over the sites where the score is defined; NaN if there is none."""
    values = [value for one in scored.values() if not np.isnan(value := study.score(one))]
    return float(np.mean(values)) if values else float("nan")


def _make_job(overrides: Sequence[str], folder: Path) -> Any:
    from fedhealth.config.compose import compose_config, compute_config_digest
    from fedhealth.protocol.job import Job

    return Job("bench", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))


def measure_methods(
    study: StudyDataset, seeds: int, methods: Mapping[str, list[list[str]]]
) -> dict[str, list[TrainingScores]]:
    """Return the scores over seeds of every baseline and method; settings are chosen on validation rows."""
    found: dict[str, list[TrainingScores]] = {}
    for name in (ALONE, CENTRALISED):
        found[name] = [train_baseline(study, [*study.overrides, f"seed={seed}"], name) for seed in range(seeds)]
    for name, settings in methods.items():
        if name in study.without:
            continue
        tried = []
        for overrides in settings:
            tried.append(
                [train_federated(study, [*study.overrides, *overrides, f"seed={seed}"]) for seed in range(seeds)]
            )
        found[name] = max(tried, key=lambda outcomes: float(np.mean([each.validation for each in outcomes])))
    return found


def print_table(study: StudyDataset, found: Mapping[str, list[TrainingScores]], seconds: float) -> str:
    """Print a study's table; return the best method on validation rows."""
    methods = [name for name in found if name not in (ALONE, CENTRALISED)]
    best = max(methods, key=lambda name: float(np.mean([each.validation for each in found[name]])))
    print(f"\n{study.name} ({seconds:.0f} s)")
    print(f"{'':14}{'within site':>16}{'pooled':>16}{'within - fedavg':>24}{'within - centralised':>26}")
    for name, outcomes in found.items():
        within, pooled = ([getattr(each, key) for each in outcomes] for key in ("within", "pooled"))
        gains = [
            _format_paired_difference(within, [each.within for each in found[other]]) for other in (FEDAVG, CENTRALISED)
        ]
        mark = " <- best on validation rows" if name == best else ""
        print(
            f"{name:14}{_format_mean_and_sd(within):>16}{_format_mean_and_sd(pooled):>16}{gains[0]:>24}{gains[1]:>26}{mark}"
        )
    return best


def _format_mean_and_sd(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def _format_paired_difference(values: Sequence[float], others: Sequence[float]) -> str:
    differences = np.subtract(values, others)
    if len(differences) < 2 or not differences.any():
        return f"{differences.mean():+.3f}"
    half = float(student.ppf(0.975, len(differences) - 1)) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.3f} [{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"


def collect_results(study: StudyDataset, found: Mapping[str, list[TrainingScores]], best: str) -> dict[str, Any]:
    """Return a study's numbers for the last line."""
    means = {
        f"{study.name}_{name}_{key}": round(float(np.mean([getattr(each, key) for each in outcomes])), 4)
        for name, outcomes in found.items()
        for key in ("within", "pooled")
    }
    within, pooled = means[f"{study.name}_{best}_within"], means[f"{study.name}_{best}_pooled"]
    if study.name == "derm":
        return means | {"derm_best": best, "derm_best_personalised_within_site_auc": within}
    return means | {"heart_best": best, "heart_best_mean_of_clients": within, "heart_best_pooled": pooled}


def main() -> None:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--quick", action="store_true", help="heart alone, two seeds, three methods")
    options = parser.parse_args()
    methods = {name: METHODS[name][:1] for name in (FEDAVG, "ditto", "finetune")} if options.quick else METHODS
    line: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for study in list_studies(options.data, Path(folder)):
            if options.quick and study.name != "heart":
                continue
            started = time.monotonic()
            found = measure_methods(study, 2 if options.quick else 5, methods)
            line |= collect_results(study, found, print_table(study, found, time.monotonic() - started))
    print(json.dumps(line | {f"flamby_heart_{name}": values for name, values in FLAMBY_HEART.items()}))


if __name__ == "__main__":
    main()
