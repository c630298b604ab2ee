"""`fedhealth watch`: what a run is doing, from another terminal; it reads the run's files and changes none."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedhealth.cli.progress import Display
from fedhealth.errors import ConfigError
from fedhealth.runs.run_dir import RunDir

_LOOK_SECONDS = 0.3
_GONE_AFTER = 5.0  # seconds in which nobody held the run and nothing happened


def run_watch(folder: Path) -> None:
    """Show events until the run has ended.

    Raises:
        ConfigError: there is no run in the folder.

    """
    run, console = RunDir(folder), Console()
    if not run.about:
        raise ConfigError(f"{folder} holds no run.", "Give the folder that has its run.json.")
    with Display(run, console):
        _wait(run)
    about = run.about
    error = about.get("error") or {}
    console.print(f"[bold]{about['state']}[/] {escape(str(error.get('problem', '')))}".rstrip(), soft_wrap=True)
    if about["state"] == "running":
        console.print(f"Nobody works on it here: `fedhealth run resume={escape(str(folder))}` goes on.", soft_wrap=True)
    elif (folder / "report.html").is_file():
        console.print(f"Report: {(folder / 'report.html').resolve().as_uri()}", soft_wrap=True)


def _wait(run: RunDir) -> None:
    """Return when the run has ended, or nobody works on it."""
    last, position = time.monotonic(), 0
    while run.about["state"] == "running":
        events, position = run.events(position)
        if events or run.alive:
            last = time.monotonic()
        if time.monotonic() - last > _GONE_AFTER:
            return
        time.sleep(_LOOK_SECONDS)
