"""Compare runs from Python, as `fedhealth compare` does on the command line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedhealth.api.run import Run, embed_page
from fedhealth.report.render import render_page
from fedhealth.report.sweep_page import build_differences_section, build_sweep_page, choose_best_run, summarize_sweep
from fedhealth.runs.paired_bootstrap import RunDifference, compute_differences
from fedhealth.runs.table import RunEntry, format_csv, load_run_entries
from fedhealth.utils.user_path import expand_user


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        entries: the runs.

    """

    entries: tuple[RunEntry, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each run: validation and test AUROC with intervals, privacy, bytes per site, Pareto front."""
        return pd.read_csv(io.StringIO(format_csv(self.entries))).set_index("run")

    @property
    def best(self) -> Run | None:
        """The run with the highest validation AUROC; None without a score, or if noise may hide a better run."""
        found = choose_best_run(self.entries)
        return Run(found.folder) if found else None

    @cached_property
    def gains(self) -> pd.DataFrame:
        """The best run's gain in test AUROC over each other run, a row for each, with its interval, `low` to `high`."""
        rows = [
            {"run": each.other.label, "gain": each.gain.value, "low": each.gain.low, "high": each.gain.high}
            | {"paired": each.paired}
            for each in self._differences
        ]
        return pd.DataFrame(rows, columns=["run", "gain", "low", "high", "paired"]).set_index("run")

    @cached_property
    def page(self) -> str:
        """The page that compares the runs, as an HTML document."""
        best = choose_best_run(self.entries)
        section = build_differences_section(best, self._differences) if best else None
        return render_page(lambda: build_sweep_page(self.entries, [section] if section else []))

    @cached_property
    def _differences(self) -> list[RunDifference]:
        best = choose_best_run(self.entries)
        return compute_differences(best, [each for each in self.entries if each is not best]) if best else []

    def __repr__(self) -> str:
        return summarize_sweep(self.entries)

    def _repr_html_(self) -> str:
        """Return the display in a notebook: the page, in a frame that runs no script."""
        return embed_page(self.page)


def compare(runs: Sequence[Run | str | Path]) -> Comparison:
    """Return the comparison of several runs.

    Args:
        runs: runs, run directories, or folders of sweeps.

    Raises:
        ConfigError: one of them contains no run.

    """
    folders = [each.folder if isinstance(each, Run) else expand_user(each) for each in runs]
    return Comparison(tuple(load_run_entries(folders)))
