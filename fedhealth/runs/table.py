"""Table of several runs: validation and test AUROC, epsilon, traffic, and the Pareto front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.evaluation.metrics import PRIMARY_METRIC, Estimate
from fedhealth.runs.guarantee import PrivacyGuarantee, get_promised_guarantee, get_spent_guarantee
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import RunRecord, compute_traffic_per_site

_SAME_TRAFFIC = 0.02  # relative; replies of equal models differ by a few bytes of overrides and padding
_UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class RunEntry:
    """One row of the table.

    Attributes:
        folder: the run directory.
        label: the overrides in which this run differs from the others.
        run: its record.

    """

    folder: Path
    label: str
    run: RunRecord

    @property
    def state(self) -> str:
        """State in run.json: `completed`, `running`, `failed` or `stopped`."""
        return self.run.info.state

    @property
    def problem(self) -> str:
        """Why the run did not complete."""
        return self.run.info.fault.problem

    @property
    def validation(self) -> Estimate:
        """The final model's pooled validation AUROC, by which runs are chosen."""
        result = self.run.evaluation.get("validation")
        return result.metrics[PRIMARY_METRIC] if result else _UNKNOWN

    @property
    def test(self) -> Estimate:
        """The final model's pooled test AUROC, which is reported for the chosen run."""
        return self.run.test_result.metrics[PRIMARY_METRIC] if self.run.test_result else _UNKNOWN

    @property
    def has_noise(self) -> bool:
        """Whether the validation score holds the noise of differential privacy."""
        result = self.run.evaluation.get("validation")
        return result is not None and result.noise is not None

    @property
    def is_private(self) -> bool:
        """Whether the run was trained with differential privacy."""
        return self.run.is_private is True

    @property
    def guarantee(self) -> PrivacyGuarantee | None:
        """Largest epsilon that a hospital spent, else the configured limit; None without differential privacy."""
        return get_spent_guarantee(self.run) or get_promised_guarantee(self.run)

    @property
    def epsilon(self) -> float:
        """Epsilon of the guarantee; infinite without differential privacy."""
        return self.guarantee.epsilon if self.guarantee else math.inf

    @property
    def traffic(self) -> float:
        """Mean bytes to and from a hospital."""
        return sum(compute_traffic_per_site(self.run))


def load_run_entries(folders: Sequence[Path]) -> list[RunEntry]:
    """Load runs, and the runs of sweeps.

    Args:
        folders: run directories, or folders that contain run directories.

    Raises:
        ConfigError: one of them contains no run.

    """
    runs = [path for folder in folders for path in _find_run_dirs(folder)]
    records = [load_run_record(path) for path in runs]
    labels = build_run_labels([list(record.info.overrides) for record in records])
    base = "(base)" if any(labels) else ""  # of the run that has no override of its own
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        RunEntry(path, label if label and label not in twice else f"{path.name} {label or base}".strip(), record)
        for path, label, record in zip(runs, labels, records, strict=True)
    ]


def find_pareto_front(candidates: Sequence[RunEntry]) -> list[RunEntry]:
    """Return the completed runs that no other one dominates in validation AUROC, epsilon and traffic.

    A run dominates no other one from which it cannot be told apart because of noise.
    """
    eligible = [entry for entry in candidates if entry.state == "completed" and not math.isnan(entry.validation.value)]
    return [entry for entry in eligible if not any(_dominates(other, entry) for other in eligible)]


def list_indistinct_runs(entry: RunEntry, others: Sequence[RunEntry]) -> list[RunEntry]:
    """Return the completed runs whose validation AUROC differs from a run's by no more than the noise may do."""
    return [
        other
        for other in others
        if other is not entry
        and other.state == "completed"
        and (entry.has_noise or other.has_noise)
        and not _can_tell_apart(entry, other)
    ]


def subtract_estimates(one: Estimate, other: Estimate) -> Estimate:
    """Return the difference of two independent estimates, with its interval (MOVER: Zou and Donner, Stat Med 2008)."""
    gain = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(gain, gain - below, gain + above)


def _can_tell_apart(one: RunEntry, other: RunEntry) -> bool:
    """Return whether the interval of the difference of two validation scores excludes zero."""
    gain = subtract_estimates(one.validation, other.validation)
    return gain.low > 0 or gain.high < 0


def build_table_rows(entries: Sequence[RunEntry]) -> list[dict[str, str | float | None]]:
    """Return a row for each run; epsilon is infinite without differential privacy, an unknown value is None."""
    front = find_pareto_front(entries)
    return [
        {"folder": str(entry.folder), "run": entry.label, "state": entry.state}
        | _list_scores(entry)
        | _list_privacy(entry)
        | {"bytes_per_site": round(entry.traffic), "on_pareto_front": "yes" if entry in front else "no"}
        for entry in entries
    ]


def format_csv(entries: Sequence[RunEntry]) -> str:
    """Return the table as CSV; epsilon is `inf` without differential privacy, an unknown value is an empty cell."""
    file, rows = io.StringIO(), build_table_rows(entries)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row.values()])
    return file.getvalue()


def _list_scores(entry: RunEntry) -> dict[str, float | None]:
    """Return the validation and test score, each with its interval."""
    return {
        f"{split}_{PRIMARY_METRIC}{end}": _get_known(getattr(estimate, field))
        for split, estimate in (("validation", entry.validation), ("test", entry.test))
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _list_privacy(entry: RunEntry) -> dict[str, str | float | None]:
    """Return what is promised to a patient."""
    found = entry.guarantee
    if found is None:
        return {"epsilon": math.inf, "delta": None, "noise_multiplier": None, "privacy_unit": None}
    numbers = {"epsilon": found.epsilon, "delta": found.delta, "noise_multiplier": found.noise_multiplier}
    return {name: _get_known(number) for name, number in numbers.items()} | {"privacy_unit": found.unit}


def _get_known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _find_run_dirs(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file():
        return [folder]
    run_dirs = sorted((path.parent for path in folder.glob("*/run.json")), key=_numeric_sort_key)
    if not run_dirs:
        raise ConfigError(f"There is no run in {folder}.", "Give run directories, or the folder of a sweep.")
    return run_dirs


def _numeric_sort_key(path: Path) -> tuple[int, str]:
    """Return a sort key that puts 2 before 10."""
    digits = path.name.rpartition("-")[2]
    return (int(digits) if digits.isdigit() else -1, path.name)


def _have_comparable_epsilons(one: RunEntry, other: RunEntry) -> bool:
    """Return whether two epsilons have the same unit and delta; no privacy at all is comparable with everything."""
    mine, theirs = one.guarantee, other.guarantee
    if mine is None or theirs is None:
        return True
    same_delta = mine.delta == theirs.delta or (math.isnan(mine.delta) and math.isnan(theirs.delta))
    return mine.unit == theirs.unit and same_delta


def _dominates(one: RunEntry, other: RunEntry) -> bool:
    if not _have_comparable_epsilons(one, other) or list_indistinct_runs(one, [other]):
        return False
    similar = math.isclose(one.traffic, other.traffic, rel_tol=_SAME_TRAFFIC)
    pairs = (
        (one.validation.value, other.validation.value),
        (-one.epsilon, -other.epsilon),
        (0.0, 0.0) if similar else (-one.traffic, -other.traffic),
    )
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def build_run_labels(runs: Sequence[Sequence[str]]) -> list[str]:
    """Return one label per run: its overrides, without those that all runs share."""
    common = set.intersection(*(set(overrides) for overrides in runs)) if len(runs) > 1 else set()
    return [" ".join(override for override in overrides if override not in common) for overrides in runs]
