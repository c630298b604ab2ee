"""Audit the private training of a configuration on this machine's data; docs/privacy.md explains what it can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load_file

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.errors import PrivacyError
from fedhealth.experiment.baselines import BaselineData, get_baseline_data
from fedhealth.models.model_state import set_model_arrays
from fedhealth.privacy.accounting.accountant import compute_advantage
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.ledger_audit import audit_ledger
from fedhealth.privacy.auditing.membership import FEWEST_PATIENTS, EpsilonLowerBound, run_membership_test
from fedhealth.privacy.auditing.release_checks import AuditFinding
from fedhealth.privacy.context import AccountingContext
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import AUDIT_FILE, RunDir
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.training.client_dp_trainer import ClientDPTrainer
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.fit_audit import QUICK, STANDARD, audit_fit
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.trainer import TrainingTask
from fedhealth.training.update_audit import audit_updates
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_json

Level = Literal["quick", "standard"]
_CHUNK = 256
_SHOWN = 3  # failed checks in an error


@dataclass(frozen=True)
class SiteAudit:
    """One site's result.

    Attributes:
        site: its name.
        unit: whom the run protects.
        findings: of all checks.
        bounds: in the standard audit, empirical lower bounds on epsilon by name.
        success: the most that an attacker's guess about one unit can be right, of 1; a coin toss is .5.
        skipped: why the standard audit left its membership test out, as a sentence; empty if it did not.

    """

    site: str
    unit: str
    findings: tuple[AuditFinding, ...]
    bounds: Mapping[str, EpsilonLowerBound]
    success: float
    skipped: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether all checks passed."""
        return all(each.passed for each in self.findings) and all(bound.is_consistent for bound in self.bounds.values())


def audit_sites(
    config: Config, level: Level, run: RunDir | None = None, final: State | None = None
) -> Iterator[SiteAudit]:
    """Audit every site's training, one after the other; see `audit_site`."""
    bench = BaselineData.prepare(config)
    yield from (audit_site(bench, site, level, run, final) for site in config.data.sites)


def audit_rehearsal(site: str, job: Job) -> SiteAudit:
    """Audit a site of a finished run on this machine, with its ledgers and its final model."""
    run = RunDir(Path(job.folder))
    return audit_site(get_baseline_data(job), site, "standard", run, load_file(run.path / "model.safetensors"))


def audit_site(
    bench: BaselineData, site: str, level: Level, run: RunDir | None = None, final: State | None = None
) -> SiteAudit:
    """Audit one site's training, from the model that it starts with.

    Args:
        bench: data of a configuration with privacy=patient, record or client; its model is changed.
        site: its name.
        level: `quick` measures for seconds; `standard` measures longer and adds the membership test.
        run: a finished run of this configuration, to check its ledgers, too.
        final: that run's final model, for the membership test; None skips the test.

    Raises:
        PrivacyError: the configuration's training is not private.

    """
    config, trainer = bench.config, instantiate(bench.config.privacy)
    if not isinstance(trainer, DPSGDTrainer | ClientDPTrainer):
        raise PrivacyError("There is no private training to audit.", "Use privacy=patient, record or client.")
    bench.reset_model()
    rows = bench.cohorts[site].rows("train")
    task = TrainingTask(bench.model, bench.examples[site], rows, config.training, config.data.task.kind, config.seed)
    shares = _count_shares(config) if trainer.shares_noise else 1
    place = AccountingContext("audit", site, Path(), 1, config.strategy.rounds, shares=shares)  # nothing is booked
    plan, measured = _audit_trainer(trainer, task, place, level)
    findings = list(measured)
    if run is not None and (ledger := get_ledger_path(run.site_dir(site), trainer.budget.dataset)).is_file():
        findings += audit_ledger(ledger, plan.delta)
    bounds: dict[str, EpsilonLowerBound] = {}
    skipped = ""
    if level == "standard" and final is not None and plan.unit != "client":
        others = bench.cohorts[site].rows("test")
        if not (skipped := _explain_few_patients(task, others)):
            bounds = _bound_membership(plan, task, others, final)
    success = (1 + compute_advantage(plan.run_events)) / 2
    return SiteAudit(site, plan.unit, tuple(findings), bounds, success, skipped)


def _count_shares(config: Config) -> int:
    """Return the most honest sites that the noise of a sum counts on: all but those that are assumed to collude."""
    members = len(config.data.sites)
    return members - (ThresholdPolicy(config.secagg.get("colluders")).resolve(members).colluders or 0)


def _audit_trainer(
    trainer: DPSGDTrainer | ClientDPTrainer, task: TrainingTask, place: AccountingContext, level: Level
) -> tuple[PrivacyPlan, tuple[AuditFinding, ...]]:
    if isinstance(trainer, ClientDPTrainer):
        return trainer.make_plan(place), audit_updates(trainer, task, place)
    return trainer.make_plan(task, place), audit_fit(trainer, task, place, STANDARD if level == "standard" else QUICK)


def write_audit(run: RunDir, results: list[SiteAudit]) -> None:
    """Write the results into a run directory, for the report."""
    content = [
        {
            "site": each.site,
            "unit": each.unit,
            "passed": each.has_passed,
            "success": each.success,
            "findings": [asdict(finding) for finding in each.findings],
            "bounds": {name: asdict(bound) for name, bound in each.bounds.items()},
            "skipped": each.skipped,
        }
        for each in results
    ]
    write_json(run.path / AUDIT_FILE, {"sites": content})


def format_audit(result: SiteAudit) -> list[str]:
    """Return the audit results of a site, one sentence each."""
    failed = [f"FAILED: {each}" for each in _list_failures(result)]
    results = [] if failed else [f"{len(result.findings)} checks of its private training passed"]
    bounds = [_describe_bound(name, bound) for name, bound in result.bounds.items() if bound.is_consistent]
    skipped = [result.skipped] if result.skipped else []
    return [f"{result.site}: {line}" for line in (*failed, *results, *bounds, *skipped)]


def describe_failures(result: SiteAudit) -> str:
    """Return a site's failed checks as one sentence part: the first three, and how many more."""
    failed = _list_failures(result)
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return f"{result.site}: {', '.join(failed[:_SHOWN])}{more}"


def _list_failures(result: SiteAudit) -> list[str]:
    failed = [str(each) for each in result.findings if not each.passed]
    return failed + [_describe_bound(name, bound) for name, bound in result.bounds.items() if not bound.is_consistent]


def _describe_bound(name: str, bound: EpsilonLowerBound) -> str:
    return f"{name} ({bound})"


def _explain_few_patients(task: TrainingTask, others: np.ndarray) -> str:
    """Return why there are too few patients for the membership test; empty if there are enough."""
    members, strangers = (len(np.unique(task.examples.patient[rows])) for rows in (task.rows, others))
    if min(members, strangers) >= FEWEST_PATIENTS:
        return ""
    return (
        f"the membership test was left out: it needs {FEWEST_PATIENTS} training patients and {FEWEST_PATIENTS} test "
        f"patients, there are {members} and {strangers}. `evaluation.audit=false` turns the whole audit off."
    )


def _bound_membership(
    plan: PrivacyPlan, task: TrainingTask, others: np.ndarray, final: State
) -> dict[str, EpsilonLowerBound]:
    """Return the membership test of the final model."""
    set_model_arrays(task.model, final)
    members, strangers = _compute_patient_losses(task, task.rows), _compute_patient_losses(task, others)
    return {"membership": run_membership_test(members, strangers, plan.epsilon, plan.delta)}


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
