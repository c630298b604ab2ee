"""Audit the private training of a configuration on this machine's data; docs/privacy.md explains what it can show."""

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
from fedhealth.experiment.baselines import BaselineData
from fedhealth.models.model_state import set_model_arrays
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.canaries import EpsilonLowerBound, run_canary_audit, run_membership_test
from fedhealth.privacy.auditing.step_audit import AuditFinding, run_step_audit
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.runs.run_dir import AUDIT_FILE, RunDir
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.trainer import TrainingTask
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_json

Level = Literal["quick", "standard"]
_CHUNK = 256


@dataclass(frozen=True)
class SiteAudit:
    """One site's result: findings of the quick audit and, in the standard audit, lower bounds on epsilon by name."""

    site: str
    findings: tuple[AuditFinding, ...]
    bounds: Mapping[str, EpsilonLowerBound]

    @property
    def has_passed(self) -> bool:
        """Whether all checks passed."""
        return all(each.passed for each in self.findings) and all(bound.is_consistent for bound in self.bounds.values())


def audit_sites(
    config: Config, level: Level, run: RunDir | None = None, final: State | None = None
) -> Iterator[SiteAudit]:
    """Audit every site's training, one after the other.

    Args:
        config: with privacy=patient or record.
        level: `quick` checks one step; `standard` adds the statistical audits.
        run: a finished run of this configuration, to check its ledgers, too.
        final: that run's final model, for the membership test; None skips the test.

    Raises:
        PrivacyError: the configuration's training is not DP-SGD.

    """
    trainer = instantiate(config.privacy)
    if not isinstance(trainer, DPSGDTrainer):
        raise PrivacyError("There is no private training step to audit.", "Use privacy=patient or privacy=record.")
    bench = BaselineData.prepare(config)
    for site in config.data.sites:
        rows = bench.cohorts[site].rows("train")
        task = TrainingTask(
            bench.model, bench.examples[site], rows, config.training, config.data.task.kind, config.seed
        )
        with TemporaryDirectory() as scratch:
            folder = run.site_dir(site) if run else Path(scratch)
            place = AccountingContext(str(run.info["run"]) if run else "audit", site, folder, 1, config.strategy.rounds)
            yield _audit_site(trainer, task, place, level, bench.cohorts[site].rows("test"), final)


def write_audit(run: RunDir, results: list[SiteAudit]) -> None:
    """Write the results into a run directory, for the report."""
    content = [
        {
            "site": each.site,
            "passed": each.has_passed,
            "findings": [asdict(finding) for finding in each.findings],
            "bounds": {name: asdict(bound) for name, bound in each.bounds.items()},
        }
        for each in results
    ]
    write_json(
        run.path / AUDIT_FILE, {"lines": [line for each in results for line in format_audit(each)], "sites": content}
    )


def format_audit(result: SiteAudit) -> list[str]:
    """Return the audit results of a site, one sentence each."""
    failed = [f"{each.name}: FAILED ({each.detail})" for each in result.findings if not each.passed]
    results = failed or [f"{len(result.findings)} checks of a training step passed"]
    return [f"{result.site}: {line}" for line in (*results, *(f"{name}: {b}" for name, b in result.bounds.items()))]


def _audit_site(
    trainer: DPSGDTrainer,
    task: TrainingTask,
    place: AccountingContext,
    level: Level,
    others: np.ndarray,
    final: State | None,
) -> SiteAudit:
    plan = trainer.make_plan(task, place)
    batch, owners, losses = trainer.load_audit_batch(task, plan)
    ledger = get_ledger_path(place.folder, trainer.budget.dataset)
    findings = run_step_audit(
        task.model.train(),
        losses,
        plan,
        batch,
        owners,
        make_engine=trainer.make_engine,
        step=trainer.step,
        ledger=ledger if ledger.is_file() else None,
    )
    bounds: dict[str, EpsilonLowerBound] = {}
    if level == "standard":
        bounds["canaries"] = run_canary_audit(_without_towers(plan), make_engine=trainer.make_engine, step=trainer.step)
        if final is not None and min(len(task.rows), len(others)) >= 4:
            set_model_arrays(task.model, final)
            members, strangers = _compute_patient_losses(task, task.rows), _compute_patient_losses(task, others)
            bounds["membership"] = run_membership_test(members, strangers, plan)
    return SiteAudit(place.site, tuple(findings), bounds)


def _without_towers(plan: PrivacyPlan) -> PrivacyPlan:
    """Return the plan for a model without towers, such as a table of canaries."""
    return replace(plan, clipping=Clipping(plan.clipping.max_grad_norm)) if plan.clipping.towers else plan


def _compute_patient_losses(task: TrainingTask, rows: np.ndarray) -> np.ndarray:
    """Return the loss of every patient, the mean over its rows, float64 [patients]."""
    model, parts = task.model.eval(), []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(rows), _CHUNK):
            chosen = rows[start : start + _CHUNK]
            batch = {name: value.to(device) for name, value in task.examples.batch(chosen).items()}
            found = compute_row_losses(model(batch), task.examples.targets(chosen).to(device), task.kind)
            parts.append(found.double().cpu().numpy())
    _, owner = np.unique(task.examples.patient[rows], return_inverse=True)
    return np.asarray(np.bincount(owner, np.concatenate(parts)) / np.bincount(owner))
