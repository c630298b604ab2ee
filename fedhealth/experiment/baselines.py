"""Train the alternatives to the federation with the same work, and score all of them on the same test patients.

A site alone takes as many optimizer steps as it took in the federation; the centralised model takes as many as all
sites together. Where the run protects patients, so do the alternatives, each with a budget of its own as large as the
run's; the centralised model then takes as many steps as one site, over batches as large as all sites' together, because
noise is added by step. Intervals and differences come from a bootstrap over patients, paired between models.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

from fedhealth.config.compose import compose, digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, TrainingConfig
from fedhealth.data.batches import Examples
from fedhealth.data.concat import pool_examples
from fedhealth.data.dataset import Cohort, prepare
from fedhealth.errors import PrivacyError
from fedhealth.evaluation.metrics import Estimate, estimate
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions, predict, resampled, score
from fedhealth.models.model_state import get_state, set_state
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.privacy.context import Place
from fedhealth.protocol.job import Job, config_of
from fedhealth.runs.run_dir import PERSONAL, PREDICTIONS, RunDir
from fedhealth.training.feature_cache import model_inputs
from fedhealth.training.trainer import Task, Trainer, device_of, steps_of, use_threads
from fedhealth.utils.atomic_io import write_json

METRIC = "auroc"
FEDERATED = "federated"
CENTRALISED = "centralised"

BySite = Mapping[str, Predictions]


@dataclass(frozen=True)
class Bench:
    """The sites' data as one model's inputs."""

    config: Config
    model: MultimodalModel
    cohorts: dict[str, Cohort]
    examples: dict[str, Examples]

    @staticmethod
    def of(config: Config) -> Bench:
        """Prepare every site for the model of `config`."""
        use_threads(config.training)
        model = build_model(config.model, config.data, config.seed).to(device_of(config.training.device))
        cohorts = {site: prepare(config.data, site) for site in config.data.sites}
        inputs = {site: model_inputs(cohort, model) for site, cohort in cohorts.items()}
        return Bench(config, model, cohorts, inputs)

    def test(self, run: RunDir | None = None, split: str = "test") -> dict[str, Predictions]:
        """Score every site's held-out rows with the model as it is, or with the site's own of `run`."""
        kind, common = self.config.data.task.kind, get_state(self.model, list(self.model.state_dict()))
        scored = {}
        for site, cohort in self.cohorts.items():
            path = run.site(site) / PERSONAL if run else None
            own = load_file(path) if path and path.is_file() else {}
            set_state(self.model, own)
            scored[site] = predict(self.model, self.examples[site], cohort.rows(split), kind)
            set_state(self.model, {name: common[name] for name in own})
        return scored

    def train_on(self, sites: list[str]) -> None:
        """Train a fresh model on the pooled training rows of `sites`, under the promise that the run makes.

        Raises:
            PrivacyError: these sites have too few patients for it.

        """
        fresh = build_model(self.config.model, self.config.data, self.config.seed)
        self.model.load_state_dict(fresh.state_dict())
        text = self.model.towers["text"].encoder if "text" in self.model.towers else None
        pooled = pool_examples([self.examples[site] for site in sites], pad=getattr(text, "pad", 0))
        starts = np.cumsum([0, *(len(self.examples[site].labels) for site in sites)])
        rows = [self.cohorts[site].rows("train") for site in sites]
        shifted = np.concatenate([own + start for own, start in zip(rows, starts, strict=False)])
        trainer: Trainer = instantiate(self.config.privacy)
        work = self._work([len(own) for own in rows], trainer.private)
        task = Task(self.model, pooled, shifted, work, self.config.data.task.kind, self.config.seed)
        with TemporaryDirectory() as folder:  # nothing of this model leaves: its ledger ends with it
            trainer.fit(task, Place("comparison", "all" if len(sites) > 1 else sites[0], Path(folder), 1, 1))

    def _work(self, rows: Sequence[int], private: bool) -> TrainingConfig:
        """Return the whole training of one model on `rows` of several sites: as much work as they did together."""
        training, rounds = self.config.training, self.config.strategy.rounds
        if private:
            training = replace(training, batch_size=training.batch_size * len(rows))
            steps = steps_of(training, sum(rows))
        else:
            steps = sum(steps_of(training, count) for count in rows)
        return replace(training, local_steps=rounds * steps, local_epochs=None)


def compare(job: Job, config: Config, run: RunDir) -> None:
    """Train what `config.comparison` asks for and write comparison.json beside the federation's results."""
    bench = Bench.of(config)
    set_state(bench.model, load_file(run.path / "model.safetensors"))
    predictions: dict[str, BySite] = {FEDERATED: bench.test(run)}
    for site, own in predictions[FEDERATED].items():
        np.savez(run.site(site) / PREDICTIONS, allow_pickle=False, **vars(own))
    todo = [*_alternatives(config), *_modalities(config)]
    for done, (name, scored) in enumerate(_trained(todo, job, config.comparison.workers)):
        run.event("comparing", name=name, done=done + 1, total=len(todo))
        predictions |= {name: scored} if scored else {}
    ordered = {name: predictions[name] for name in (FEDERATED, *todo) if name in predictions}
    result = summarise(ordered, config)
    write_json(run.path / "comparison.json", result)
    run.event("compared", lines=list(_lines(result)))


def _trained(todo: Sequence[str], job: Job, workers: int) -> Iterator[tuple[str, BySite | None]]:
    """Yield each alternative's predictions as it is trained, in this process or in `workers` others."""
    if workers == 1:
        yield from ((name, alternative(name, job)) for name in todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(alternative, name, job): name for name in todo}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def alternative(name: str, job: Job) -> BySite | None:
    """Train one alternative; return its predictions on every site's test rows, None where privacy forbids to train."""
    if name.endswith(" only"):
        return _modality(name.removesuffix(" only"), job)
    bench = _bench(job)
    try:
        bench.train_on(list(bench.cohorts) if name == CENTRALISED else [name.removeprefix("alone ")])
    except PrivacyError:  # a site that the federation did without, too
        return None
    return bench.test()


@lru_cache(maxsize=1)
def _bench(job: Job) -> Bench:
    return Bench.of(config_of(job))


def summarise(predictions: Mapping[str, BySite], config: Config) -> dict[str, object]:
    """Return every model's scores, pooled and per site, and its paired distance to the federation."""
    resamples, seed = config.evaluation.bootstrap, config.seed
    pooled = {name: pool_predictions(list(sites.values())) for name, sites in predictions.items()}
    draws = {name: resampled(scored, resamples, seed)[METRIC] for name, scored in pooled.items()}
    alone = [name for name in predictions if name.startswith("alone ")]
    if len(alone) > 1:
        draws["alone, on average"] = np.mean([draws[name] for name in alone], axis=0)
    return {
        "metric": METRIC,
        "models": [
            {
                "name": name,
                "pooled": _json(score(pooled[name], resamples, seed)),
                "sites": {site: _json(score(scored, resamples, seed)) for site, scored in sites.items()},
            }
            for name, sites in predictions.items()
        ],
        "differences": [
            {
                "name": name,
                "alternative": _estimate(other).as_dict(),
                "gain": _estimate(draws[FEDERATED] - other).as_dict(),
            }
            for name, other in draws.items()
            if name != FEDERATED
        ],
    }


def _alternatives(config: Config) -> list[str]:
    names = [f"alone {site}" for site in config.data.sites] if config.comparison.alone else []
    return [*names, CENTRALISED] if config.comparison.centralised else names


def _modalities(config: Config) -> list[str]:
    towers = [name for name in ("image", "text", "tabular") if getattr(config.model, name)]
    return [f"{name} only" for name in towers] if config.comparison.modalities and len(towers) > 1 else []


def _modality(kept: str, job: Job) -> BySite:
    """Run the same federation with a single tower, in a folder of its own."""
    words = (*job.overrides, *(f"model.{tower}=null" for tower in ("image", "text", "tabular") if tower != kept))
    folder = RunDir(Path(job.folder) / "comparison" / kept)
    config_dir = Path(job.config_dir) if job.config_dir else None
    digested = digest(compose(words, config_dir))
    single = replace(job, run=f"{job.run}-{kept}", overrides=words, digest=digested, folder=str(folder.path))
    config = config_of(single)
    if folder.about.get("state") != "completed":  # a resumed run may have trained it already
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.begin({"run": single.run, "name": f"{kept} only", "digest": single.digest})
        instantiate(config.runtime).launch(single)
        folder.complete()
    bench = Bench.of(config)
    set_state(bench.model, load_file(folder.path / "model.safetensors"))
    return bench.test(folder)


def _estimate(draws: np.ndarray) -> Estimate:
    return estimate(draws[1:], float(draws[0]))


def _json(scores: Mapping[str, Estimate]) -> dict[str, object]:
    return {name: value.as_dict() for name, value in scores.items()}


def _lines(result: Mapping[str, object]) -> Iterator[str]:
    """Say the outcome in a few lines of text."""
    models: list = result["models"]  # type: ignore[assignment, type-arg]
    differences: list = result["differences"]  # type: ignore[assignment, type-arg]
    yield f"[bold]Pooled test {METRIC.upper()}[/]: federated {_show(models[0]['pooled'][METRIC])}"
    for row in differences:
        yield f"  {row['name']}: {_show(row['alternative'])}; federating gains {_show(row['gain'], sign=True)}"


def _show(value: Mapping[str, float | None], sign: bool = False) -> str:
    if value["value"] is None:
        return "not defined (one class)"
    form = "{:+.3f}" if sign else "{:.3f}"
    interval = ", ".join(form.format(value[end]) for end in ("low", "high") if value[end] is not None)
    return f"{form.format(value['value'])} [{interval}]"
