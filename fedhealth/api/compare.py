"""Compare runs from Python, as `fedhealth compare` does on the command line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedhealth.api.run import Run, embed_page
from fedhealth.report.run_comparison import RunComparison, load_comparison
from fedhealth.utils.user_path import expand_user


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: the runs and what is computed of them.

    """

    runs: RunComparison

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each run: validation and test AUROC with intervals, privacy, bytes per site, Pareto front."""
        return pd.read_csv(io.StringIO(self.runs.csv)).set_index("run")

    @property
    def best(self) -> Run | None:
        """The run with the highest validation AUROC; None without a score, or if noise may hide a better run."""
        return Run(self.runs.best.folder) if self.runs.best else None

    @cached_property
    def gains(self) -> pd.DataFrame:
        """The best run's gain in test AUROC over each other run, from a paired bootstrap where that is possible."""
        rows = [
            {"run": each.other.label, "gain": each.gain.value, "low": each.gain.low, "high": each.gain.high}
            | {"paired": each.paired}
            for each in self.runs.differences
        ]
        return pd.DataFrame(rows, columns=["run", "gain", "low", "high", "paired"]).set_index("run")

    @property
    def page(self) -> str:
        """The page that compares the runs, as an HTML document."""
        return self.runs.page

    def __repr__(self) -> str:
        return self.runs.summary

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
    return Comparison(load_comparison(folders))
