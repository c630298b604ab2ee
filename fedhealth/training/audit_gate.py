"""The audit before a run: once per process and plan, so that asking again gives wrong code no second chance."""

from __future__ import annotations

from collections.abc import Callable

from fedhealth.models.module_state import describe_modules
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.auditing.release_checks import AuditFinding
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.release_records import ReleaseRecords
from fedhealth.training.trainer import TrainingTask

_failures: dict[str, list[str]] = {}  # of what this process has audited


def list_failures_once(
    trainer: ReleaseRecords,
    task: TrainingTask,
    accounting: AccountingContext,
    audit: Callable[[], tuple[AuditFinding, ...]],
) -> list[str]:
    """Return which checks fail; no audit is repeated in a process.

    Args:
        trainer: as configured for the run.
        task: of the run.
        accounting: gives the number of rounds.
        audit: measures and returns the findings. They leave the site, so they must not depend on a patient.

    """
    budget: PrivacyBudget = trainer.budget
    settings = {name: value for name, value in vars(trainer).items() if name != "budget"}
    limits = {name: value for name, value in vars(budget).items() if name != "dataset"}
    key = repr(
        (
            type(trainer),
            settings,
            limits,
            describe_modules(task.model),
            task.training,
            task.kind,
            accounting.rounds,
            accounting.shares,
        )
    )
    if key not in _failures:
        _failures[key] = [str(each) for each in audit() if not each.passed]
    return list(_failures[key])
