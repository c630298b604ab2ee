"""`fedhealth watch`: follow a run from another terminal; it only reads the run's files."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedhealth.api.progress import ProgressDisplay
from fedhealth.errors import ConfigError
from fedhealth.runs.run_dir import RunDir

_POLL_SECONDS = 0.3
_IDLE_SECONDS = 5.0  # seconds without a process that runs it and without events


def run_watch(folder: Path) -> None:
    """Show events until the run has ended.

    Raises:
        ConfigError: the folder holds no run.

    """
    run, console = RunDir(folder), Console()
    if not run.exists:
        raise ConfigError(f"{folder} holds no run.", "Give the folder that has its run.json.")
    with ProgressDisplay(run, console):
        _wait_for_end(run)
    about = run.info
    console.print(f"[bold]{about.state}[/] {escape(about.fault.problem)}".rstrip(), soft_wrap=True)
    if about.state == "running":
        console.print(f"No process here runs it. Resume: `fedhealth run resume={escape(str(folder))}`.", soft_wrap=True)
    elif (folder / "report.html").is_file():
        console.print(f"Report: {(folder / 'report.html').resolve().as_uri()}", soft_wrap=True)


def _wait_for_end(run: RunDir) -> None:
    """Return when the run has ended, or no process runs it."""
    last, position = time.monotonic(), 0
    while run.info.state == "running":
        events, position = run.read_events(position)
        if events or run.is_running:
            last = time.monotonic()
        if time.monotonic() - last > _IDLE_SECONDS:
            return
        time.sleep(_POLL_SECONDS)
