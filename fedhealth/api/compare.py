"""Compare runs from Python, as `fedhealth compare` does on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedhealth.api.run import Run, embed_page
from fedhealth.errors import ConfigError
from fedhealth.report.run_comparison import RunComparison, load_comparison
from fedhealth.utils.user_path import expand_user

_NOT_NUMBERS = ("folder", "run", "state", "privacy_unit", "bytes_per_site", "on_pareto_front")  # bytes are whole


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: the runs and what is computed of them.
        given: by folder, the runs that were given as `Run`.

    """

    runs: RunComparison
    given: Mapping[Path, Run] = field(default_factory=dict)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each run: validation and test AUROC with intervals, privacy, bytes per site, Pareto front."""
        table = pd.DataFrame(self.runs.rows)
        return table.astype(dict.fromkeys(table.columns.difference([*_NOT_NUMBERS]), float)).set_index("run")

    @property
    def best(self) -> Run | None:
        """The run with the highest validation AUROC; None without a score, or if noise may hide a better run."""
        if self.runs.best is None:
            return None
        return self.given.get(self.runs.best.folder, Run(self.runs.best.folder))

    @cached_property
    def gains(self) -> pd.DataFrame:
        """The best run's gain in test AUROC over each other run, a row for each, with its interval, `low` to `high`."""
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
        runs: a list of runs, run directories, or folders of sweeps.

    Raises:
        ConfigError: one of them contains no run, or this is no list of runs.

    """
    listed = list(runs) if isinstance(runs, Iterable) and not isinstance(runs, str | Path) else None
    if not listed or not all(isinstance(each, Run | str | Path) for each in listed):
        raise ConfigError(
            f"{runs!r} is no list of runs.", "Give a list, such as compare([run, 'outputs/b']) or compare(['outputs'])."
        )
    given = {each.folder: each for each in listed if isinstance(each, Run)}
    folders = [each.folder if isinstance(each, Run) else expand_user(each) for each in listed]
    return Comparison(load_comparison(folders), given)
