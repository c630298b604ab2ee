"""Several runs side by side: how good, how private, how much traffic, and which of them no other one beats."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.evaluation.metrics import METRIC, Estimate
from fedhealth.runs.load_record import collect
from fedhealth.runs.record import Run, traffic_per_site

_SAME_TRAFFIC = 0.02  # answers differ by a few bytes of words and padding
_NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        folder: its directory.
        label: the words that tell it from the others.
        run: its record.

    """

    folder: Path
    label: str
    run: Run

    @property
    def state(self) -> str:
        """As in run.json: `completed`, `running`, `failed` or `stopped`."""
        return str(self.run.about.get("state", "unknown"))

    @property
    def problem(self) -> str:
        """Why it did not complete."""
        return str((self.run.about.get("error") or {}).get("problem", ""))

    @property
    def validation(self) -> Estimate:
        """The final model's pooled AUROC on validation rows: what runs are chosen by."""
        found = self.run.evaluation.get("validation")
        return found.metrics[METRIC] if found else _NOTHING

    @property
    def test(self) -> Estimate:
        """The same on test rows: what the chosen run is reported by."""
        return self.run.test.metrics[METRIC] if self.run.test else _NOTHING

    @property
    def is_private(self) -> bool:
        """Whether it promises differential privacy."""
        return self.run.protected("privacy") is True

    @property
    def epsilon(self) -> float:
        """The most that a hospital spent, else what was allowed; infinite without differential privacy."""
        if self.run.spending:
            return max(each.epsilon for each in self.run.spending)
        allowed = self.run.setting("privacy.epsilon")
        return math.inf if allowed is None else float(allowed)

    @property
    def traffic(self) -> float:
        """Bytes to and from a hospital, on average."""
        return sum(traffic_per_site(self.run))


def entries(folders: Sequence[Path]) -> list[Entry]:
    """Read runs, and sweeps of runs.

    Args:
        folders: run directories, or folders that hold some.

    Raises:
        ConfigError: there is no run in one of them.

    """
    runs = [path for folder in folders for path in _runs(folder)]
    records = [collect(path) for path in runs]
    labels = told_apart([[str(word) for word in record.about.get("words", ())] for record in records])
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        Entry(path, label if label and label not in twice else f"{path.name} {label}".strip(), record)
        for path, label, record in zip(runs, labels, records, strict=True)
    ]


def pareto(candidates: Sequence[Entry]) -> list[Entry]:
    """Return the runs that no other one beats: better validation, smaller epsilon, or less traffic."""
    judged = [entry for entry in candidates if entry.state == "completed" and not math.isnan(entry.validation.value)]
    return [entry for entry in judged if not any(_beats(other, entry) for other in judged)]


def as_csv(listed: Sequence[Entry]) -> str:
    """Return the table as CSV; infinite epsilon stands for none, an empty cell for what is not known."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    scores = [f"{split}_{METRIC}{end}" for split in ("validation", "test") for end in ("", "_low", "_high")]
    writer.writerow(["folder", "run", "state", *scores, "epsilon", "bytes_per_site", "on_pareto_front"])
    best = pareto(listed)
    for entry in listed:
        numbers = [getattr(estimate, end) for estimate in (entry.validation, entry.test) for end in _ENDS]
        told = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        costs = [f"{entry.epsilon:.6g}", f"{entry.traffic:.0f}", "yes" if entry in best else "no"]
        writer.writerow([str(entry.folder), entry.label, entry.state, *told, *costs])
    return file.getvalue()


_ENDS = ("value", "low", "high")


def _runs(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file():
        return [folder]
    found = sorted((path.parent for path in folder.glob("*/run.json")), key=_numbered)
    if not found:
        raise ConfigError(f"There is no run in {folder}.", "Give run directories, or the folder of a sweep.")
    return found


def _numbered(path: Path) -> tuple[int, str]:
    """Sort 2 before 10."""
    digits = path.name.rpartition("-")[2]
    return (int(digits) if digits.isdigit() else -1, path.name)


def _beats(one: Entry, other: Entry) -> bool:
    similar = math.isclose(one.traffic, other.traffic, rel_tol=_SAME_TRAFFIC)
    pairs = (
        (one.validation.value, other.validation.value),
        (-one.epsilon, -other.epsilon),
        (0.0, 0.0) if similar else (-one.traffic, -other.traffic),
    )
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def told_apart(runs: Sequence[Sequence[str]]) -> list[str]:
    """Return for every run the words that not all of them share, as one line."""
    common = set.intersection(*(set(words) for words in runs)) if len(runs) > 1 else set()
    return [" ".join(word for word in words if word not in common) for words in runs]
