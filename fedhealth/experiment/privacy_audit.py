"""Audit the private training of a configuration on this machine's data; see docs/privacy.md for what it can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.errors import PrivacyError
from fedhealth.experiment.baselines import Bench
from fedhealth.models.model_state import set_state
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.accounting.spending import ledger_path
from fedhealth.privacy.auditing.canaries import LowerBound, membership_test, one_run_audit
from fedhealth.privacy.auditing.step_audit import Finding, quick_audit
from fedhealth.privacy.context import Place
from fedhealth.privacy.engines.clipping import Clipping
from fedhealth.runs.run_dir import AUDIT, RunDir
from fedhealth.training.dpsgd_trainer import PatientTrainer
from fedhealth.training.trainer import Task, row_losses
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_json

Level = Literal["quick", "standard"]
_CHUNK = 256


@dataclass(frozen=True)
class Audited:
    """One site's result: findings of the quick audit, and lower bounds on epsilon by name where they were asked for."""

    site: str
    findings: tuple[Finding, ...]
    bounds: Mapping[str, LowerBound]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return all(each.passed for each in self.findings) and all(bound.passed for bound in self.bounds.values())


def audit(config: Config, level: Level, run: RunDir | None = None, final: State | None = None) -> Iterator[Audited]:
    """Audit every site's training, one after the other.

    Args:
        config: with privacy=patient or record.
        level: `quick` looks at one step; `standard` adds the statistical audits.
        run: a finished run of this configuration: its ledgers are checked too.
        final: that run's final model, for the membership test; none without.

    Raises:
        PrivacyError: the configuration's training is not DP-SGD.

    """
    trainer = instantiate(config.privacy)
    if not isinstance(trainer, PatientTrainer):
        raise PrivacyError("There is no private training step to audit.", "Use privacy=patient or privacy=record.")
    bench = Bench.of(config)
    for site in config.data.sites:
        rows = bench.cohorts[site].rows("train")
        task = Task(bench.model, bench.examples[site], rows, config.training, config.data.task.kind, config.seed)
        with TemporaryDirectory() as scratch:
            folder = run.site(site) if run else Path(scratch)
            place = Place(str(run.about["run"]) if run else "audit", site, folder, 1, config.strategy.rounds)
            yield _audited(trainer, task, place, level, bench.cohorts[site].rows("test"), final)


def write(run: RunDir, results: list[Audited]) -> None:
    """Leave the result in a run directory, for the report."""
    content = [
        {
            "site": each.site,
            "passed": each.passed,
            "findings": [asdict(finding) for finding in each.findings],
            "bounds": {name: asdict(bound) for name, bound in each.bounds.items()},
        }
        for each in results
    ]
    write_json(run.path / AUDIT, {"lines": [line for each in results for line in lines(each)], "sites": content})


def lines(result: Audited) -> list[str]:
    """Return what the audit says about a site, a sentence each."""
    failed = [f"{each.name}: NOT SO ({each.detail})" for each in result.findings if not each.passed]
    said = failed or [f"{len(result.findings)} checks of a training step passed"]
    return [f"{result.site}: {line}" for line in (*said, *(f"{name}: {b}" for name, b in result.bounds.items()))]


def _audited(
    trainer: PatientTrainer, task: Task, place: Place, level: Level, others: np.ndarray, final: State | None
) -> Audited:
    plan = trainer.plan(task, place)
    batch, owners, losses = trainer.sample(task, plan)
    ledger = ledger_path(place.folder, trainer.allowance.dataset)
    findings = quick_audit(
        task.model.train(),
        losses,
        plan,
        batch,
        owners,
        make=trainer.make_engine,
        step=trainer.step,
        ledger=ledger if ledger.is_file() else None,
    )
    bounds: dict[str, LowerBound] = {}
    if level == "standard":
        bounds["canaries"] = one_run_audit(_without_towers(plan), make=trainer.make_engine, step=trainer.step)
        if final is not None and min(len(task.rows), len(others)) >= 4:
            set_state(task.model, final)
            members, strangers = _losses(task, task.rows), _losses(task, others)
            bounds["membership"] = membership_test(members, strangers, plan.epsilon, plan.delta)
    return Audited(place.site, tuple(findings), bounds)


def _without_towers(plan: PrivacyPlan) -> PrivacyPlan:
    """Return the plan for a model without towers, such as a table of canaries."""
    return replace(plan, clipping=Clipping(plan.clipping.bound)) if plan.clipping.towers else plan


def _losses(task: Task, rows: np.ndarray) -> np.ndarray:
    """Return the loss of every patient, the mean over its rows, float64 [patients]."""
    model, parts = task.model.eval(), []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(rows), _CHUNK):
            chosen = rows[start : start + _CHUNK]
            batch = {name: value.to(device) for name, value in task.examples.batch(chosen).items()}
            found = row_losses(model(batch), task.examples.targets(chosen).to(device), task.kind)
            parts.append(found.double().cpu().numpy())
    _, owner = np.unique(task.examples.patient[rows], return_inverse=True)
    return np.asarray(np.bincount(owner, np.concatenate(parts)) / np.bincount(owner))
