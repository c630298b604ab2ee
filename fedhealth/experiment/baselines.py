"""Train baselines with the same amount of work as the federation, and score all models on the same test patients.

A local-only model takes as many optimizer steps as its site took in the federation; the centralised model takes as many
as all sites together. If the run is differentially private, so are the baselines, each with its own budget of the size
of the run's. The centralised model then takes as many steps as one site, with batches as large as those of all sites
together, because noise is added in every step. Where the federation exports its best round, a baseline is scored as
often, and its best state counts. Intervals and differences come from a paired bootstrap over patients.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, Select, Sends, TrainingConfig
from fedhealth.config.selection_rule import find_selection_rule
from fedhealth.data.augmentation import make_augmentation
from fedhealth.data.concat import concat_examples
from fedhealth.data.dataset import SiteDataset, prepare_dataset
from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.evaluation.metrics import Estimate, estimate_interval
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions, bootstrap_metrics, compute_metrics, predict_studies
from fedhealth.experiment.best_state import BestState
from fedhealth.experiment.calibrated_scores import describe_calibrated_scores
from fedhealth.experiment.comparison_text import format_comparison
from fedhealth.experiment.site_gains import compare_sites, tune_model
from fedhealth.experiment.warm_workers import compute_each
from fedhealth.models.model_state import get_model_arrays, set_model_arrays
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.privacy.context import AccountingContext
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.run_dir import PERSONAL_FILE, PREDICTIONS_FILE, RunDir
from fedhealth.training.devices import select_device, set_thread_count
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.optimizers import count_steps
from fedhealth.training.trainer import Trainer, TrainingTask
from fedhealth.utils.atomic_io import write_json

METRIC = "auroc"
FEDERATED = "federated"
CENTRALISED = "centralised"

PredictionsBySite = Mapping[str, Predictions]


@dataclass(frozen=True)
class BaselineData:
    """The sites' data as one model's inputs."""

    config: Config
    model: MultimodalModel
    cohorts: dict[str, SiteDataset]
    examples: dict[str, Examples]

    @staticmethod
    def prepare(config: Config) -> BaselineData:
        """Prepare every site's data for the model of `config`."""
        set_thread_count(config.training)
        model = build_model(config.model, config.data, config.seed).to(select_device(config.training.device))
        cohorts = {site: prepare_dataset(config.data, site) for site in config.data.sites}
        raw = config.training.augmentation is not None
        inputs = {site: build_model_inputs(cohort, model, raw) for site, cohort in cohorts.items()}
        return BaselineData(config, model, cohorts, inputs)

    def reset_model(self) -> None:
        """Give the model the parameters that it starts with."""
        fresh = build_model(self.config.model, self.config.data, self.config.seed)
        self.model.load_state_dict(fresh.state_dict())

    def predict(self, run: RunDir | None = None, split: str = "test") -> dict[str, Predictions]:
        """Score every site's held-out rows with the model, or with the site's own model of `run`."""
        common = get_model_arrays(self.model, list(self.model.state_dict()))
        scored = {}
        for site in self.cohorts:
            path = run.site_dir(site) / PERSONAL_FILE if run else None
            own = load_file(path) if path and path.is_file() else {}
            set_model_arrays(self.model, own)
            scored[site] = self._predict_site(site, split)
            set_model_arrays(self.model, {name: common[name] for name in own})
        return scored

    def predict_tuned(self) -> dict[str, Predictions]:
        """Score every site's test rows with the model as it is, trained further at that site; then restore it."""
        common = get_model_arrays(self.model, list(self.model.state_dict()))
        scored = {}
        for site, cohort in self.cohorts.items():
            if len(cohort.rows("train")):
                tune_model(self.model, self.examples[site], cohort.rows("train"), self.config)
                scored[site] = self._predict_site(site, "test")
                set_model_arrays(self.model, common)
        return scored

    def _predict_site(self, site: str, split: str) -> Predictions:
        rows = self.cohorts[site].rows(split)
        return predict_studies(self.model, self.examples[site], rows, self.config.data.task.kind)

    def train_on(self, sites: list[str]) -> None:
        """Train a fresh model on the pooled training rows of `sites`, with the run's privacy target.

        Raises:
            PrivacyError: these sites have too few patients for it.

        """
        self.reset_model()
        text = self.model.towers["text"].encoder if "text" in self.model.towers else None
        pooled = concat_examples([self.examples[site] for site in sites], pad=getattr(text, "pad", 0))
        pooled = replace(pooled, augmentation=make_augmentation(self.config.training))
        starts = np.cumsum([0, *(len(self.examples[site].labels) for site in sites)])
        rows = [self.cohorts[site].rows("train") for site in sites]
        shifted = np.concatenate([own + start for own, start in zip(rows, starts, strict=False)])
        # All steps are one round, which is never repeated.
        alone = {"spare_rounds": 0, "noise": "local"}  # no sum with others
        changes = {key: value for key, value in alone.items() if key in self.config.privacy}
        trainer: Trainer = instantiate(self.config.privacy, **changes)
        work = self._work([len(own) for own in rows], trainer.is_private)
        task = TrainingTask(self.model, pooled, shifted, work, self.config.data.task.kind, self.config.seed)
        name, best = "all" if len(sites) > 1 else sites[0], self._watch_scores(sites, work)
        task = replace(task, gradient_hook=best.score_step if best else None)
        with TemporaryDirectory() as folder:  # this model is not shared: its ledger is temporary
            trainer.fit(task, AccountingContext("comparison", name, Path(folder), 1, 1))
        if best:
            best.restore_best()

    def _watch_scores(self, sites: Sequence[str], work: TrainingConfig) -> BestState | None:
        """Return what keeps the best model on the sites' validation rows, if the federation exports its best round."""
        if find_selection_rule(self.config)[0] is Select.last or work.local_steps is None:
            return None

        def score() -> float:
            scored = [self._predict_site(site, "validation") for site in sites]
            self.model.train()
            return compute_metrics(pool_predictions(scored), 0)[METRIC].value

        return BestState(self.model, score, work.local_steps // self.config.strategy.rounds)

    def _work(self, rows: Sequence[int], private: bool) -> TrainingConfig:
        """Return the training settings of one model on `rows` of several sites, with as much work as theirs."""
        training, rounds = self.config.training, self.config.strategy.rounds
        if private:
            training = replace(training, batch_size=training.batch_size * len(rows))
            steps = count_steps(training, sum(rows))
        else:
            steps = sum(count_steps(training, count) for count in rows)
        return replace(training, local_steps=rounds * steps, local_epochs=None, sends=Sends.update)


def compare_baselines(job: Job, config: Config, run: RunDir, pool: Executor | None = None) -> None:
    """Train the baselines of `config.baselines` and write comparison.json beside the federation's results."""
    bench = BaselineData.prepare(config)
    set_model_arrays(bench.model, load_file(run.path / "model.safetensors"))
    predictions: dict[str, PredictionsBySite] = {FEDERATED: bench.predict(run)}
    for site, own in predictions[FEDERATED].items():
        np.savez(run.site_dir(site) / PREDICTIONS_FILE, allow_pickle=False, **vars(own))
    todo = [*_list_baselines(config), *_list_single_modalities(config)]
    longest_first = todo[::-1]  # else one process would wait for the other's last one
    for done, (name, scored) in enumerate(compute_each(train_baseline, longest_first, job, pool)):
        run.append_event("comparing", name=name, done=done + 1, total=len(todo))
        predictions |= {name: scored} if scored else {}
    ordered = {name: predictions[name] for name in (FEDERATED, *todo) if name in predictions}
    calibrated = describe_calibrated_scores(predictions[FEDERATED], config, run)
    result = summarise_scores(ordered, config) | {
        "calibrated": calibrated,
        "sites": _compare_sites(bench, ordered, run),
    }
    write_json(run.path / "comparison.json", result)
    run.append_event("compared", lines=list(format_comparison(result)))


def _compare_sites(
    bench: BaselineData, predictions: Mapping[str, PredictionsBySite], run: RunDir
) -> list[dict[str, object]]:
    """Return what each site gains over the model that it trained alone; `bench` holds the shared model."""
    names = {site: f"alone {site}" for site in bench.cohorts}
    alone = {site: predictions[name][site] for site, name in names.items() if name in predictions}
    has_personal = any((run.site_dir(site) / PERSONAL_FILE).is_file() for site in names)
    tuned = bench.predict_tuned() if alone and not has_personal else {}
    return compare_sites(predictions[FEDERATED], alone, tuned, bench.config)


def train_baseline(name: str, job: Job) -> PredictionsBySite | None:
    """Train one baseline; return its predictions on every site's test rows, or None if privacy forbids its training."""
    if name.endswith(" only"):
        return _train_single_modality(name.removesuffix(" only"), job)
    bench = get_baseline_data(job)
    try:
        bench.train_on(list(bench.cohorts) if name == CENTRALISED else [name.removeprefix("alone ")])
    except PrivacyError:  # the federation did not use this site either
        return None
    return bench.predict()


@lru_cache(maxsize=1)
def get_baseline_data(job: Job) -> BaselineData:
    """Return the job's data, prepared once per process; the model is as the last user left it."""
    return BaselineData.prepare(compose_job_config(job))


def summarise_scores(predictions: Mapping[str, PredictionsBySite], config: Config) -> dict[str, object]:
    """Return every model's scores, pooled and per site, and the paired differences to the federated model."""
    resamples, seed = config.evaluation.bootstrap, config.seed
    pooled = {name: pool_predictions(list(sites.values())) for name, sites in predictions.items()}
    draws = {name: bootstrap_metrics(scored, resamples, seed)[METRIC] for name, scored in pooled.items()}
    alone = [name for name in predictions if name.startswith("alone ")]
    if len(alone) > 1:
        draws["alone, on average"] = np.mean([draws[name] for name in alone], axis=0)
    return {
        "metric": METRIC,
        "models": [
            {
                "name": name,
                "pooled": _scores_to_json(compute_metrics(pooled[name], resamples, seed)),
                "sites": {
                    site: _scores_to_json(compute_metrics(scored, resamples, seed)) for site, scored in sites.items()
                },
            }
            for name, sites in predictions.items()
        ],
        "differences": [
            {
                "name": name,
                "alternative": _estimate_from_draws(other).as_dict(),
                "gain": _estimate_from_draws(draws[FEDERATED] - other).as_dict(),
            }
            for name, other in draws.items()
            if name != FEDERATED
        ],
    }


def _list_baselines(config: Config) -> list[str]:
    names = [f"alone {site}" for site in config.data.sites] if config.baselines.local_only else []
    return [*names, CENTRALISED] if config.baselines.centralised else names


def _list_single_modalities(config: Config) -> list[str]:
    towers = [name for name in ("image", "text", "tabular") if getattr(config.model, name)]
    return [f"{name} only" for name in towers] if config.baselines.modalities and len(towers) > 1 else []


def _train_single_modality(kept: str, job: Job) -> PredictionsBySite:
    """Run the same federation with a single tower, in its own folder."""
    overrides = (*job.overrides, *(f"model.{tower}=null" for tower in ("image", "text", "tabular") if tower != kept))
    config = compose_job_config(job)
    if config.baselines.workers > 1 and "workers" in config.runtime:
        overrides = (*overrides, "runtime.workers=1")  # the other cores train other baselines
    folder = RunDir(Path(job.folder) / "comparison" / kept)
    config_dir = Path(job.config_dir) if job.config_dir else None
    digested = compute_config_digest(compose_config(overrides, config_dir))
    single = replace(job, run=f"{job.run}-{kept}", overrides=overrides, digest=digested, folder=str(folder.path))
    config = compose_job_config(single)
    if folder.info.state != "completed":  # a resumed run may already have trained it
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.create(run=single.run, name=f"{kept} only", digest=single.digest)
        instantiate(config.runtime).launch(single)
        folder.mark_completed()
    bench = BaselineData.prepare(config)
    set_model_arrays(bench.model, load_file(folder.path / "model.safetensors"))
    return bench.predict(folder)


def _estimate_from_draws(draws: np.ndarray) -> Estimate:
    return estimate_interval(draws[1:], float(draws[0]))


def _scores_to_json(scores: Mapping[str, Estimate]) -> dict[str, object]:
    return {name: value.as_dict() for name, value in scores.items()}
