"""Several runs side by side: the best one, what it gains over the others, and the page; for command line and API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedhealth.report.render import render_page
from fedhealth.report.sweep_page import build_differences_section, build_sweep_page, choose_best_run, summarize_sweep
from fedhealth.runs.paired_bootstrap import RunDifference, compute_differences
from fedhealth.runs.table import RunEntry, build_table_rows, format_csv, load_run_entries


@dataclass(frozen=True)
class RunComparison:
    """Runs that are compared; each value is computed once.

    Attributes:
        entries: the runs.

    """

    entries: tuple[RunEntry, ...]

    @cached_property
    def best(self) -> RunEntry | None:
        """The run with the highest validation AUROC; None without a score, or if noise may hide a better run."""
        return choose_best_run(self.entries)

    @cached_property
    def differences(self) -> list[RunDifference]:
        """The best run's gain in test AUROC over each other run; empty without a best run."""
        if self.best is None:
            return []
        return compute_differences(self.best, [each for each in self.entries if each is not self.best])

    @property
    def summary(self) -> str:
        """One sentence about the runs."""
        return summarize_sweep(self.entries)

    @property
    def rows(self) -> list[dict[str, str | float | None]]:
        """A row for each run, see `build_table_rows`."""
        return build_table_rows(self.entries)

    @property
    def csv(self) -> str:
        """The runs as CSV, one line each."""
        return format_csv(self.entries)

    @cached_property
    def page(self) -> str:
        """The page that compares the runs, as an HTML document."""
        section = build_differences_section(self.best, self.differences) if self.best else None
        return render_page(lambda: build_sweep_page(self.entries, [section] if section else []))


def load_comparison(folders: Sequence[Path]) -> RunComparison:
    """Return the comparison of the runs in these run directories, or in folders that contain them.

    Raises:
        ConfigError: one of the folders contains no run.

    """
    return RunComparison(tuple(load_run_entries(folders)))
