"""What each answer to heterogeneity is worth, on real hospitals' data.

`python -m benchmarks.heterogeneity [--quick] [--data FOLDER]` trains alone, federated by every method, and centralised,
over five seeds, and prints mean within-site and pooled test scores with standard deviations. Which method (and which of
its settings) counts as the best is decided on validation rows. Differences are paired over seeds, with a 95 % interval
by Student's t. The last line is one JSON object.

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

COMMON = ["secagg=off", "training.threads=1", "comparison.alone=false", "comparison.centralised=false"]
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
class Study:
    """One data set.

    Attributes:
        name: its name.
        words: of its experiment.
        score: of predictions.
        held_out: words that hold validation rows out of the training rows; methods are then chosen by runs of their
            own. Empty where the data set has validation rows anyway.
        without: methods that cannot work there: fedrep needs more than the one step of a round.

    """

    name: str
    words: list[str]
    score: Callable[[Any], float]
    held_out: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Scores of one training: mean over sites on validation rows, on test rows, and pooled on test rows."""

    validation: float
    within: float
    pooled: float


def auroc(predictions: Any) -> float:
    """Return the area under the curve, NaN with one class."""
    from fedhealth.evaluation.predictions import score

    value = score(predictions, 1)["auroc"].value
    return float("nan") if value is None else float(value)


def accuracy(predictions: Any) -> float:
    """Return the share that a threshold of one half gets right."""
    if not len(predictions.labels):
        return float("nan")
    return float(((predictions.scores[:, 0] > 0.5) == (predictions.labels[:, 0] == 1)).mean())


def studies(data: Path, cache: Path) -> Iterator[Study]:
    """Yield the data sets that are there."""
    shared = [f"data.cache='{cache}'", *COMMON]
    if (data / "fed_heart").is_dir():
        words = ["experiment=heart", f"data.root='{data / 'fed_heart'}'", *shared]
        yield Study("heart", words, accuracy, ("data.split.validation=0.25",), ("fedrep",))
    if (data / "fed_derm").is_dir():
        weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
        words = ["experiment=derm", f"data.root='{data / 'fed_derm'}'", f"model.image.weights='{weights}'"]
        yield Study("derm", [*words, *shared], auroc)


def federated(study: Study, words: Sequence[str]) -> Outcome:
    """Run a federation and score every site's own model."""
    with tempfile.TemporaryDirectory() as folder:
        found = _federated(study, words, Path(folder))
    if not study.held_out:
        return found
    with tempfile.TemporaryDirectory() as folder:
        return replace(found, validation=_federated(study, [*words, *study.held_out], Path(folder)).validation)


def _federated(study: Study, words: Sequence[str], folder: Path) -> Outcome:
    from safetensors.numpy import load_file

    from fedhealth.config.instantiate import instantiate
    from fedhealth.experiment.baselines import Bench
    from fedhealth.models.model_state import set_state
    from fedhealth.protocol.job import config_of
    from fedhealth.runs.run_dir import RunDir

    job, run = _job(words, folder), RunDir(folder)
    run.begin({"run": job.run, "name": study.name, "digest": job.digest})
    config = config_of(job)
    instantiate(config.runtime).launch(job)
    bench = Bench.of(config)
    set_state(bench.model, load_file(folder / "model.safetensors"))
    return _outcome(study, bench.test(run, "validation"), bench.test(run))


def unfederated(study: Study, words: Sequence[str], name: str) -> Outcome:
    """Train every site alone, or one model on all rows."""
    from fedhealth.experiment.baselines import Bench
    from fedhealth.protocol.job import config_of

    bench = Bench.of(config_of(_job(words, Path())))
    if name == CENTRALISED:
        bench.train_on(list(bench.cohorts))
        return _outcome(study, bench.test(split="validation"), bench.test())
    validation, test, pooled = {}, {}, []
    for site in bench.cohorts:
        bench.train_on([site])
        everywhere = bench.test()
        validation[site], test[site] = bench.test(split="validation")[site], everywhere[site]
        pooled.append(_outcome(study, everywhere, everywhere).pooled)
    found = _outcome(study, validation, test)
    return Outcome(found.validation, found.within, float(np.mean(pooled)))  # a model alone, on everybody's patients


def _outcome(study: Study, validation: Mapping[str, Any], test: Mapping[str, Any]) -> Outcome:
    from fedhealth.evaluation.pooling import pool_predictions

    pooled = study.score(pool_predictions(list(test.values())))
    return Outcome(_within(study, validation), _within(study, test), pooled)


def _within(study: Study, scored: Mapping[str, Any]) -> float:
    """Return the mean over the sites at which the score is defined; NaN where it is nowhere."""
    values = [value for one in scored.values() if not np.isnan(value := study.score(one))]
    return float(np.mean(values)) if values else float("nan")


def _job(words: Sequence[str], folder: Path) -> Any:
    from fedhealth.config.compose import compose, digest
    from fedhealth.protocol.job import Job

    return Job("bench", tuple(words), digest(compose(words)), str(folder))


def measure(study: Study, seeds: int, methods: Mapping[str, list[list[str]]]) -> dict[str, list[Outcome]]:
    """Return the outcomes over seeds of every alternative, each method with its best settings on validation rows."""
    found: dict[str, list[Outcome]] = {}
    for name in (ALONE, CENTRALISED):
        found[name] = [unfederated(study, [*study.words, f"seed={seed}"], name) for seed in range(seeds)]
    for name, settings in methods.items():
        if name in study.without:
            continue
        tried = []
        for words in settings:
            tried.append([federated(study, [*study.words, *words, f"seed={seed}"]) for seed in range(seeds)])
        found[name] = max(tried, key=lambda outcomes: float(np.mean([each.validation for each in outcomes])))
    return found


def show(study: Study, found: Mapping[str, list[Outcome]], seconds: float) -> str:
    """Print a study's table; return the method that is best on validation rows."""
    methods = [name for name in found if name not in (ALONE, CENTRALISED)]
    best = max(methods, key=lambda name: float(np.mean([each.validation for each in found[name]])))
    print(f"\n{study.name} ({seconds:.0f} s)")
    print(f"{'':14}{'within site':>16}{'pooled':>16}{'within - fedavg':>24}{'within - centralised':>26}")
    for name, outcomes in found.items():
        within, pooled = ([getattr(each, key) for each in outcomes] for key in ("within", "pooled"))
        gains = [_paired(within, [each.within for each in found[other]]) for other in (FEDAVG, CENTRALISED)]
        mark = " <- best on validation rows" if name == best else ""
        print(f"{name:14}{_spread(within):>16}{_spread(pooled):>16}{gains[0]:>24}{gains[1]:>26}{mark}")
    return best


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def _paired(values: Sequence[float], others: Sequence[float]) -> str:
    differences = np.subtract(values, others)
    if len(differences) < 2 or not differences.any():
        return f"{differences.mean():+.3f}"
    half = float(student.ppf(0.975, len(differences) - 1)) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.3f} [{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"


def figures(study: Study, found: Mapping[str, list[Outcome]], best: str) -> dict[str, Any]:
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
        for study in studies(options.data, Path(folder)):
            if options.quick and study.name != "heart":
                continue
            started = time.monotonic()
            found = measure(study, 2 if options.quick else 5, methods)
            line |= figures(study, found, show(study, found, time.monotonic() - started))
    print(json.dumps(line | {f"flamby_heart_{name}": values for name, values in FLAMBY_HEART.items()}))


if __name__ == "__main__":
    main()
