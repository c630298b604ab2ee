"""A run in Python: its metrics, history, model and report, loaded from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from fedhealth.api.tables import (
    build_baselines_table,
    build_history_table,
    build_metrics_table,
    build_privacy_table,
    build_sites_table,
)
from fedhealth.errors import ConfigError, ModelError
from fedhealth.export.model import ExportedModel, load_model
from fedhealth.report.summary import summarize_run
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import RunRecord
from fedhealth.runs.run_dir import MODEL_DIR, RunDir
from fedhealth.utils.user_path import expand_user

REPORT_FILE = "report.html"
_FRAME_HEIGHT = 720  # pixels, in a notebook


@dataclass(frozen=True)
class Run:
    """A run, completed or not. A table is read once, when it is first used.

    Attributes:
        folder: the run directory.
        config_dir: the folder of configuration files that names parts of an own package; None for none.

    """

    folder: Path
    config_dir: Path | None = None

    @cached_property
    def record(self) -> RunRecord:
        """Everything that is known of the run, as dataclasses."""
        return load_run_record(self.folder)

    @property
    def state(self) -> str:
        """`completed`, `running`, `failed`, `stopped`, or `interrupted` (its process was killed)."""
        state = RunDir(self.folder).info.state
        return "interrupted" if state == "running" and not RunDir(self.folder).is_running else state

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.record.config

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Pooled metrics of the final model by split and metric, with 95 % intervals.

        A row for each split and metric, with columns `value`, `low`, `high` and `studies`.
        """
        return build_metrics_table(self.record)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The rounds: a row for each, with loss and validation AUROC of the model at its START, seconds and bytes."""
        return build_history_table(self.record)

    @cached_property
    def sites(self) -> pd.DataFrame:
        """The hospitals: a row for each, with counts, `missed_rounds` and `declined` (why; empty if it did not)."""
        return build_sites_table(self.record)

    @cached_property
    def baselines(self) -> pd.DataFrame:
        """The baselines: a row for each, with its metric and the federated model's paired gain over it."""
        return build_baselines_table(self.record)

    @cached_property
    def privacy(self) -> pd.DataFrame:
        """Epsilon spent by hospital, where the ledgers are on this machine.

        A row for each hospital and data set: `epsilon`, `target`, `delta`, `noise_multiplier` and `unit`.
        """
        return build_privacy_table(self.record)

    @cached_property
    def model(self) -> ExportedModel:
        """The exported model.

        Raises:
            ModelError: the run did not complete, or exported only the shared part of a personalized model, or its model
                has a part of an own package and `config_dir` does not name it.

        """
        if not (self.folder / MODEL_DIR).is_dir():
            raise ModelError(f"The run in {self.folder} is {self.state} and has no model.", _explain_state(self))
        return load_model(self.folder / MODEL_DIR, config_dir=self.config_dir)

    @property
    def report(self) -> Path:
        """The HTML report.

        Raises:
            ConfigError: the run wrote none: it did not complete.

        """
        path = self.folder / REPORT_FILE
        if not path.is_file():
            raise ConfigError(f"The run in {self.folder} is {self.state} and has no report.", _explain_state(self))
        return path

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.state}): {summarize_run(self.record)}"

    def _repr_html_(self) -> str:
        """Return the display in a notebook: the report, in a frame that runs no script."""
        if not (self.folder / REPORT_FILE).is_file():
            return f"<p>{escape(repr(self))}</p>"
        return embed_page(self.report.read_text("utf-8"))


def load_run(folder: str | Path, *, config_dir: str | Path | None = None) -> Run:
    """Return the run in a directory.

    Args:
        folder: the run directory.
        config_dir: the folder of configuration files, as for training, if the model has a part of an own package. What
            run.json says of it is not used: a run may come from somebody else.

    Raises:
        ConfigError: there is no run.

    """
    if not isinstance(folder, str | Path):
        raise ConfigError(f"{folder!r} is no folder.", "Give the folder that has the run's run.json.")
    path = expand_user(folder)
    if not (path / "run.json").is_file():
        raise ConfigError(f"There is no run in {path}.", "Give the folder that has the run's run.json.")
    return Run(path, expand_user(config_dir) if config_dir else None)


def embed_page(page: str) -> str:
    """Return an HTML document inside a frame for a notebook; no script of it runs."""
    return (
        f'<iframe sandbox srcdoc="{escape(page)}" title="fedhealth report" '
        f'style="width: 100%; height: {_FRAME_HEIGHT}px; border: 0"></iframe>'
    )


def _explain_state(run: Run) -> str:
    if run.state in ("failed", "stopped", "interrupted"):
        return f"Resume it: fedhealth run resume={run.folder}"
    if run.state == "completed":
        return "It was removed: restore the run's folder from a backup."
    return "Wait until it has completed."
