"""Implementation of `fedhealth site ingest`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedhealth.config.compose import compose_config
from fedhealth.config.data_contract import find_data_errors
from fedhealth.config.quoting import quote_value
from fedhealth.config.schema import Config, DataConfig
from fedhealth.data.findings import parse_findings
from fedhealth.errors import ConfigError
from fedhealth.ingest.ingest_files import ingest_files
from fedhealth.ingest.report import PAGE_FILE, REPORT_FILE, build_ingest_report
from fedhealth.ingest.report_page import render_page
from fedhealth.ingest.settings import IngestSettings, load_ingest_settings
from fedhealth.ingest.table_source import build_table_source
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.user_path import expand_user

_SHOWN = ("patients", "rows", "image", "text", "tabular", "unlabelled")


def run_ingest(file: Path, folder: Path, overrides: Sequence[str], workers: int | None, as_json: bool) -> None:
    """Ingest the data, write the reports, and print a summary.

    Raises:
        FedhealthError: the settings, the images or the tables are invalid.

    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is not positive.", "Omit it to use all processors.")
    settings, folder = load_ingest_settings(file), expand_user(folder).absolute()
    data = compose_data_config(settings, folder, overrides)
    show_requests(settings, Console(stderr=True))
    with _Bars(Console(stderr=True)) as bars:
        outcome = ingest_files(settings, data, folder, workers or len(os.sched_getaffinity(0)), bars.show)
    report = build_ingest_report(outcome, data)
    write_json(folder / REPORT_FILE, report)
    write_atomic(folder / PAGE_FILE, render_page(report, outcome.dataset).encode())
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _print_summary(report, folder)


def show_requests(settings: IngestSettings, console: Console) -> None:
    """Print what record systems will be asked, before they are asked.

    Raises:
        FedhealthError: the settings of a table are wrong.

    """
    for table in settings.tables:
        source = build_table_source(table)
        if request := source.describe_request():
            console.print(f"{source.name} will be asked:", style="bold", markup=False, highlight=False)
            console.print(request, markup=False, highlight=False, soft_wrap=True)


def compose_data_config(settings: IngestSettings, folder: Path, overrides: Sequence[str]) -> DataConfig:
    """Return the consortium's description of the data, with the hospital's own overrides applied last.

    Raises:
        ConfigError: there is no such description, or an override is invalid.

    """
    own = (f"data={settings.data}", f"data.root={quote_value(folder)}", f"data.sites=[{settings.site}]")
    config: Any = OmegaConf.to_object(compose_config([*own, *overrides], settings.conf).data)
    assert isinstance(config, DataConfig | Config)  # noqa: S101 - the schema's node
    data = config if isinstance(config, DataConfig) else config.data
    if faults := [*find_data_errors(asdict(data))]:
        raise ConfigError("\n".join(faults), f"Correct the consortium's data/{settings.data}.yaml.")
    return data


def _print_summary(report: dict[str, Any], folder: Path) -> None:
    console = Console(highlight=False)
    counts = report["cohort"]
    console.print(f"{report['site']}: " + ", ".join(f"{counts[name]} {name}" for name in _SHOWN), markup=False)
    for reason, each in report["files"]["rejected"].items():
        console.print(f"  rejected {each['count']}: {reason}", style="yellow", markup=False)
    for reason, count in report["files"]["left_out"].items():
        console.print(f"  left out {count}: {reason}", markup=False)
    for finding in parse_findings(report["findings"]):
        style = "bold red" if finding.serious else "yellow"
        console.print(f"  {finding.text}", style=style, markup=False, soft_wrap=True)
    console.print(f"Cohort: {folder}", f"Report: {folder / PAGE_FILE}", sep="\n", markup=False, soft_wrap=True)


class _Bars:
    """One progress bar for each stage, with the remaining time."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars, self._tasks = Progress(*columns, console=console, transient=True), dict[str, TaskID]()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._bars.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage)
        self._bars.update(self._tasks[stage], completed=done, total=total)
