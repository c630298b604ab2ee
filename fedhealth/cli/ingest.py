"""Work behind `fedhealth site ingest`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedhealth.config.compose import compose, quoted
from fedhealth.config.schema import Config, DataConfig
from fedhealth.errors import ConfigError
from fedhealth.ingest.page import render
from fedhealth.ingest.report import PAGE, REPORT, describe
from fedhealth.ingest.run import ingest
from fedhealth.ingest.settings import Settings, load_settings
from fedhealth.utils.atomic_io import write_atomic, write_json

_SHOWN = ("patients", "rows", "image", "text", "tabular", "unlabelled")


def run_ingest(file: Path, folder: Path, words: Sequence[str], workers: int | None, as_json: bool) -> None:
    """Ingest, write the reports, and show what stands out.

    Raises:
        FedhealthError: the file, the files or the tables are not what they should be.

    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is not positive.", "Leave it out to use every processor.")
    settings, folder = load_settings(file), folder.expanduser().absolute()
    data = describing(settings, folder, words)
    with _Bars(Console(stderr=True)) as bars:
        outcome = ingest(settings, data, folder, workers or len(os.sched_getaffinity(0)), bars.show)
    report = describe(outcome, data)
    write_json(folder / REPORT, report)
    write_atomic(folder / PAGE, render(report, outcome.cohort).encode())
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _summarise(report, folder)


def describing(settings: Settings, folder: Path, words: Sequence[str]) -> DataConfig:
    """Return the consortium's description of the data, with the hospital's own words last.

    Raises:
        ConfigError: there is no such description, or a word does not fit it.

    """
    own = (f"data={settings.data}", f"data.root={quoted(folder)}", f"data.sites=[{settings.site}]")
    config: Any = OmegaConf.to_object(compose([*own, *words], settings.conf).data)
    assert isinstance(config, DataConfig | Config)  # noqa: S101 - the schema's node
    return config if isinstance(config, DataConfig) else config.data


def _summarise(report: dict[str, Any], folder: Path) -> None:
    console = Console(highlight=False)
    counts = report["cohort"]
    console.print(f"{report['site']}: " + ", ".join(f"{counts[name]} {name}" for name in _SHOWN), markup=False)
    for reason, each in report["files"]["rejected"].items():
        console.print(f"  set aside {each['count']}: {reason}", style="yellow", markup=False)
    for reason, count in report["files"]["left_out"].items():
        console.print(f"  left out {count}: {reason}", markup=False)
    for warning in (*report["warnings"], *report["privacy"]):
        console.print(f"  {warning}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"Cohort: {folder}", f"Report: {folder / PAGE}", sep="\n", markup=False, soft_wrap=True)


class _Bars:
    """One bar for each stage, with the time that is left."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars, self._tasks = Progress(*columns, console=console, transient=True), dict[str, TaskID]()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._bars.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage)
        self._bars.update(self._tasks[stage], completed=done, total=total)
