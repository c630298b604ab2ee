"""The demo in 200 rounds of one step: shared against local noise, single modalities and central training.

The federations are runs of the product, secure aggregation included. `centralised` is the product's own baseline: one
process trains on all patients, with as many steps and the same promise. Before that, each arm's learning rate is chosen
by the AUROC of the validation patients, in central training with the noise of the arm's sum, which a run of one-step
rounds is equal to (`tests/fedhealth/runtime/test_one_step.py`). No ledger books this choice. Test patients are scored
by the chosen models only. Seeds are paired: one start of the weights, noise and batches of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from omegaconf import OmegaConf

from benchmarks.dp_utility import compute_aurocs, estimate_gain, mean_auroc, run_and_predict
from fedhealth.cli.run import DEMO_PATIENTS
from fedhealth.config.compose import compose_config
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.data.synthetic import write_hospitals
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions
from fedhealth.experiment.baselines import BaselineData
from fedhealth.training.trainer import Workload

RUN = (
    *("experiment=demo_shared", "evaluation.audit=false", "evaluation.bootstrap=10"),
    *(f"baselines.{name}=false" for name in ("local_only", "centralised", "modalities")),
)
TOWERS = ("image", "text", "tabular")
FIRST_RATES = (0.005, 0.01, 0.02)
NOISE_FACTORS = {"local": 4.0, "shared": 4 / 3}
"""Variance of the noise of four hospitals' sum, in that of one mechanism; one of them is assumed to collude."""


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        noise: who adds it; None for central training.
        towers: of the model.

    """

    noise: Literal["local", "shared"] | None
    towers: tuple[str, ...] = TOWERS

    @property
    def factor(self) -> float:
        """Variance of the noise in a step, in that of one mechanism."""
        return NOISE_FACTORS[self.noise] if self.noise else 1.0

    @property
    def words(self) -> list[str]:
        """Overrides of the run's settings."""
        absent = [f"model.{tower}=null" for tower in TOWERS if tower not in self.towers]
        return [f"privacy.noise={self.noise or 'local'}", *absent]


SINGLES = {f"{tower}_shared": Arm("shared", (tower,)) for tower in TOWERS}
ARMS = {"fused_shared": Arm("shared"), "fused_local": Arm("local"), **SINGLES, "centralised": Arm(None)}


@dataclass(frozen=True)
class Demo:
    """The demo's hospitals and how often they train.

    Attributes:
        folder: of hospitals, cache and runs.
        rounds: of every run; each is one step.
        seeds: number of runs of each arm.
        tried_seeds: number of trainings for each learning rate that is tried.

    """

    folder: Path
    rounds: int
    seeds: int
    tried_seeds: int

    @staticmethod
    def create(folder: Path, rounds: int, seeds: int, tried_seeds: int) -> Demo:
        """Write the hospitals."""
        write_hospitals(folder / "hospitals", seed=0, patients=DEMO_PATIENTS)
        return Demo(folder, rounds, seeds, tried_seeds)

    def compose_words(self, arm: Arm, rate: float) -> list[str]:
        """Return the overrides of an arm's run."""
        places = [f"data.root='{self.folder / 'hospitals'}'", f"data.cache='{self.folder / 'cache'}'"]
        settings = [f"strategy.rounds={self.rounds}", f"training.optimizer.lr={rate}"]
        return [*RUN, *places, *settings, *arm.words]

    def train_centrally(self, arm: Arm, rate: float, seed: int) -> BaselineData:
        """Return the data with a model that was trained on all patients, with the noise of the arm's sum."""
        words = [*self.compose_words(arm, rate), f"seed={seed}"]
        own = compute_noise_multiplier(words)
        noised = f"privacy.noise_multiplier={own * math.sqrt(arm.factor)}"
        bench = BaselineData.prepare(compose_settings([*words, noised]))
        bench.train_on(list(bench.cohorts))
        return bench

    def choose_rate(self, arm: Arm) -> float:
        """Return the learning rate whose models are best on the validation patients, on average over seeds.

        The grid grows by factors of two until the best is not at its edge.
        """
        tried: dict[float, float] = {}
        waiting: Sequence[float] = FIRST_RATES
        while waiting:
            for rate in waiting:
                models = [self.train_centrally(arm, rate, seed) for seed in range(self.tried_seeds)]
                tried[rate] = mean_auroc([score_patients(model, "validation") for model in models])
            best = max(tried, key=lambda rate: tried[rate])
            waiting = [rate for rate in (best / 2, 2 * best) if rate not in tried]
        return best

    def run_seeds(self, name: str, rate: float) -> tuple[list[Predictions], list[float]]:
        """Return the predictions for the test patients by seed, and the seconds of each run."""
        found, seconds = [], []
        for seed in range(self.seeds):
            started, arm = time.monotonic(), ARMS[name]
            if arm.noise is None:
                found.append(score_patients(self.train_centrally(arm, rate, seed), "test"))
            else:
                words = [*self.compose_words(arm, rate), f"seed={seed}"]
                found.append(run_and_predict(words, self.folder / f"{name}-{seed}"))
            seconds.append(time.monotonic() - started)
        return found, seconds


def compose_settings(words: Sequence[str]) -> Config:
    """Return the configuration of a run."""
    config = OmegaConf.to_object(compose_config(words))
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config


def compute_noise_multiplier(words: Sequence[str]) -> float:
    """Return the noise that one mechanism needs for the promise of a run; it depends on no patient."""
    config = compose_settings(words)
    trainer = instantiate(config.privacy, noise="local")
    work = Workload((1,) * 1000, frozenset(TOWERS))
    return float(trainer.plan_run(work, config.training, config.strategy.rounds)[1].noise_multiplier)


def score_patients(bench: BaselineData, split: str) -> Predictions:
    """Return the model's predictions for the patients of a split, of all hospitals."""
    return pool_predictions(list(bench.predict(split=split).values()))


def measure_demo(demo: Demo) -> Iterator[tuple[str, float]]:
    """Yield each arm's learning rate, mean AUROC over seeds, and what shared noise and all modalities gain."""
    rates: dict[str, float] = {}
    for name, arm in ARMS.items():
        rates[name] = demo.choose_rate(arm)
        yield f"demo_{name}_rate", rates[name]
    found: dict[str, list[Predictions]] = {}
    for name, rate in rates.items():
        found[name], seconds = demo.run_seeds(name, rate)
        yield f"demo_{name}", mean_auroc(found[name])
        yield f"demo_{name}_deviation", float(np.std([compute_aurocs(each)[0] for each in found[name]]))
        if name == "fused_shared":
            yield f"demo_{demo.rounds}_rounds_seconds", float(np.median(seconds))
    yield from compare_demo(found)


def compare_demo(found: Mapping[str, Sequence[Predictions]]) -> Iterator[tuple[str, float]]:
    """Yield what the fused model with shared noise gains; the best single modality is the one that tests best."""
    best = max(SINGLES, key=lambda name: mean_auroc(found[name]))
    yield "demo_best_single_shared", mean_auroc(found[best])
    for other, name in {"local": "fused_local", "single": best, "centralised": "centralised"}.items():
        yield from estimate_gain(f"demo_gain_over_{other}", found["fused_shared"], found[name])
