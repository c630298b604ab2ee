"""How good the recommended settings are on real hospitals' data, beside the targets.

`python -m benchmarks.quality [--quick] [--data FOLDER] [--only STUDY ...]`. FOLDER holds fed_derm, fed_heart, fed_cxr
and the two encoders. For every study a few recipes come from `fedhealth recommend` (and from the study's own
experiment); the one with the highest AUROC on validation patients is then scored on test patients, over three seeds.
Test patients choose nothing. --quick takes one seed, and needs the features in the cache to end within ten minutes. The
last line is one JSON object: figures, targets, and which of them are missed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.dp_utility import RUN, compute_aurocs, run_federation
from fedhealth.config.recommend import StudyFacts, recommend_overrides
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions
from fedhealth.experiment.baselines import BaselineData

TARGETS = {
    "derm_pooled": 0.925,
    "derm_within": 0.885,
    "derm_eps8": 0.905,
    "derm_eps1": 0.885,
    "heart_mean_accuracy": 0.82,
    "heart_pooled_accuracy": 0.80,
}
HIGHEST_GAP = 0.005  # of derm, centralised
EARLIER = {"derm_eps8_at_delta_1e-5": 0.9135}  # measured before the default delta became 1e-6
RESAMPLES = 1000
Scored = Mapping[str, Predictions]
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Bench:
    """Where the data lie, and how often each recipe is run.

    Attributes:
        data: folder of the data sets.
        scratch: for runs.
        seeds: of the chosen recipe.

    """

    data: Path
    scratch: Path
    seeds: int

    @property
    def text_encoder(self) -> str:
        """A frozen sentence encoder."""
        return str(self.data / "text_encoder")

    @property
    def image_weights(self) -> str:
        """ImageNet weights of a MobileNetV2."""
        return str(self.data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors")

    def run_recipe(self, name: str, overrides: Sequence[str], seed: int) -> BaselineData:
        """Run one federation; its folder is kept for no longer than this benchmark."""
        started = time.monotonic()
        found = run_federation([*overrides, *RUN, f"seed={seed}"], self.scratch / f"{name}-{seed}")
        print(f"  {name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
        return found

    def choose_recipe(self, name: str, recipes: Mapping[str, Sequence[str]]) -> str:
        """Return the recipe whose first seed is best on validation patients; test patients are not looked at."""
        if len(recipes) == 1:
            return next(iter(recipes))
        scores = {}
        for recipe, overrides in recipes.items():
            found = self.run_recipe(f"{name}-{recipe}-validation", overrides, 0)
            scores[recipe] = compute_auroc(found.predict(split="validation"))
            print(f"  {name}: {recipe} has {scores[recipe]:.4f} on validation patients", flush=True)
        return max(scores, key=lambda recipe: scores[recipe])


def recommend_recipe(facts: StudyFacts, dataset: str, root: Path) -> list[str]:
    """Return the overrides of `fedhealth recommend`; rehearsals are left out."""
    found = [override for each in recommend_overrides(facts) for override in each.overrides]
    return [f"data={dataset}", f"data.root='{root}'", *(o for o in found if not o.startswith("baselines."))]


def compute_auroc(scored: Scored) -> float:
    """Return the pooled AUROC."""
    return float(compute_aurocs(pool_predictions(list(scored.values())))[0])


def compute_within(scored: Scored) -> float:
    """Return the mean AUROC of the hospitals that have both classes."""
    return float(np.nanmean([compute_aurocs(each)[0] for each in scored.values()]))


def compute_accuracy(found: Predictions) -> float:
    """Return the accuracy at one half."""
    return float(((found.scores[:, 0] > 0.5) == (found.labels[:, 0] == 1)).mean())


def measure_derm(bench: Bench) -> Figures:
    """Yield AUROC on four sources of skin lesions, and how much better one model of all their data is."""
    root, modalities = bench.data / "fed_derm", frozenset({"image", "text", "tabular"})
    facts = StudyFacts(200, 4, modalities, None, bench.text_encoder, "", bench.image_weights)
    words = StudyFacts(200, 4, modalities, None, "", "", bench.image_weights)
    sentences, weights = recommend_recipe(facts, "derm", root), f"model.image.weights='{bench.image_weights}'"
    averaged = [*sentences, "method=fedavg", "training.optimizer.lr=0.002"]
    plain = {
        "sentences": sentences,
        "slow": [*sentences, "training.optimizer.lr=0.0005"],
        "ngrams": recommend_recipe(words, "derm", root),
        "rounds": [*averaged, "strategy.rounds=60", "training.batch_size=32", "training.local_steps=20"],
        "steady": [*averaged, "strategy.rounds=60", "training.batch_size=128", "training.local_steps=5"],
        "experiment": ["experiment=derm", f"data.root='{root}'", weights],
    }
    recipe = bench.choose_recipe("derm", plain)
    pooled, within, gaps = [], [], []
    for seed in range(bench.seeds):
        found = bench.run_recipe(f"derm-{recipe}", plain[recipe], seed)
        scored = found.predict()
        pooled.append(compute_auroc(scored))
        within.append(compute_within(scored))
        found.train_on(list(found.cohorts))
        gaps.append(compute_auroc(found.predict()) - pooled[-1])
    yield "derm_pooled", float(np.mean(pooled))
    yield "derm_within", float(np.mean(within))
    yield "centralised_gap_derm", float(np.mean(gaps))


def measure_private_derm(bench: Bench) -> Figures:
    """Yield the pooled AUROC on skin lesions at epsilon 8 and 1; the modalities are chosen on validation patients."""
    root = bench.data / "fed_derm"
    for epsilon in (8.0, 1.0):
        facts = StudyFacts(200, 4, frozenset({"image", "tabular"}), epsilon, image_weights=bench.image_weights)
        weights = f"model.image.weights='{bench.image_weights}'"
        own = ["experiment=derm", f"data.root='{root}'", weights, "privacy=patient", f"privacy.epsilon={epsilon:g}"]
        recipes = {"generic": recommend_recipe(facts, "derm", root), "specialized": own}
        name = f"derm_eps{epsilon:g}"
        recipe = bench.choose_recipe(name, recipes)
        runs = (bench.run_recipe(f"{name}-{recipe}", recipes[recipe], seed) for seed in range(bench.seeds))
        yield name, float(np.mean([compute_auroc(found.predict()) for found in runs]))


def measure_heart(bench: Bench) -> Figures:
    """Yield the accuracy at four hospitals, of the federation and of one model of all their data."""
    root = bench.data / "fed_heart"
    facts = StudyFacts(30, 4, frozenset({"tabular"}))
    recommended = recommend_recipe(facts, "heart_all", root)  # thirteen variables, FLamby's rows
    own = ["experiment=heart", "data=heart_all", f"data.root='{root}'"]
    held_out = ["data.split.validation=0.2"]
    recipes = {
        "recommended": [*recommended, *held_out],
        "linear": [*recommended, *held_out, "model.dim=null", "model.tabular.hidden=0", "model.fusion.hidden=0"],
        "experiment": own,
    }
    recipe = bench.choose_recipe("heart", {name: [*each, *held_out] for name, each in recipes.items()})
    figures: dict[str, list[float]] = {}
    for seed in range(bench.seeds):
        found = bench.run_recipe(f"heart-{recipe}", recipes[recipe], seed)
        for prefix in ("heart", "heart_centralised"):
            if prefix == "heart_centralised":
                found.train_on(list(found.cohorts))
            scored = found.predict()
            means = [compute_accuracy(each) for each in scored.values()]
            figures.setdefault(f"{prefix}_mean_accuracy", []).append(float(np.mean(means)))
            pooled = compute_accuracy(pool_predictions(list(scored.values())))
            figures.setdefault(f"{prefix}_pooled_accuracy", []).append(pooled)
    yield from ((name, float(np.mean(values))) for name, values in figures.items())


def measure_cxr(bench: Bench) -> Figures:
    """Yield how much better all modalities are on chest X-rays than the one that is best on test patients."""
    facts = StudyFacts(
        20, 3, frozenset({"image", "text", "tabular"}), None, bench.text_encoder, "", bench.image_weights
    )
    overrides = recommend_recipe(facts, "cxr", bench.data / "fed_cxr")
    draws: dict[str, list[np.ndarray]] = {}
    towers = ("image", "text", "tabular")
    arms = {"fused": overrides} | {
        kept: [o for o in [*overrides, *(f"model.{other}=null" for other in towers if other != kept)] if keeps(o, kept)]
        for kept in towers
    }
    for name, arm in arms.items():
        for seed in range(bench.seeds):
            found = bench.run_recipe(f"cxr-{name}", arm, seed).predict()
            draws.setdefault(name, []).append(compute_aurocs(pool_predictions(list(found.values())), RESAMPLES))
    means = {name: np.mean(each, axis=0) for name, each in draws.items()}
    best = max(towers, key=lambda name: float(means[name][0]))
    gain = means["fused"] - means[best]
    yield "cxr_fused", float(means["fused"][0])
    yield f"cxr_best_single_{best}", float(means[best][0])
    yield "cxr_fused_minus_best_single", float(gain[0])
    yield "cxr_fused_minus_best_single_low", float(np.nanpercentile(gain[1:], 2.5))
    yield "cxr_fused_minus_best_single_high", float(np.nanpercentile(gain[1:], 97.5))


def keeps(override: str, kept: str) -> bool:
    """Return whether an override still has a meaning once only one tower is left."""
    for tower in ("image", "text", "tabular"):
        if tower != kept and override.startswith((f"model/{tower}=", f"model.{tower}.")):
            return False
    return not override.startswith("model.modality_dropout")


STUDIES: dict[str, Callable[[Bench], Figures]] = {
    "heart": measure_heart,
    "cxr": measure_cxr,
    "derm": measure_derm,
    "private_derm": measure_private_derm,
}


def find_missed(figures: Mapping[str, float]) -> list[str]:
    """Return the names of the figures that miss their targets."""
    missed = [name for name, target in TARGETS.items() if name in figures and figures[name] < target]
    if figures.get("centralised_gap_derm", 0.0) > HIGHEST_GAP:
        missed.append("centralised_gap_derm")
    return missed


def main() -> None:
    """Print each figure as it is found, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDHEALTH_TEST_DATA", default)))
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.data, Path(folder), 1 if options.quick else 3)
        for study in options.only:
            for name, value in STUDIES[study](bench):
                figures[name] = round(value, 4)
                print(f"{name:40} {value:.4f}  ({time.monotonic() - started:.0f} s)", flush=True)
    targets = TARGETS | {"centralised_gap_derm": HIGHEST_GAP}
    seconds = round(time.monotonic() - started)
    print(
        json.dumps(
            figures | {"targets": targets, "earlier": EARLIER, "missed": find_missed(figures), "seconds": seconds}
        )
    )


if __name__ == "__main__":
    main()
