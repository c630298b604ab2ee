"""Runs that nobody works on any more, because the process or the machine of whoever started them ended: they go on."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import jobs
from fedhealth.runs.run_dir import RunDir

log = logging.getLogger("fedhealth.lead")

_PATIENCE = 5.0  # seconds without anybody: whoever goes on by hand is not overtaken
_LOOK_SECONDS = 2.0
_TRIES = 3  # for one run, as long as this server lives


class Unattended:
    """The lead's runs whose state says that they run and whose lock nobody holds.

    A run that failed or was stopped says so, and is left to people.

    """

    def __init__(self, home: LeadHome) -> None:
        self._home = home
        self._since: dict[Path, float] = {}
        self._tries: dict[Path, int] = {}
        self._working: dict[Path, subprocess.Popen[bytes]] = {}
        self._looked = 0.0

    def look(self) -> None:
        """Go on with what has been without anybody for a while; cheap to call often."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._working = {path: process for path, process in self._working.items() if process.poll() is None}
        for job in jobs(self._home):
            run = RunDir(Path(job.folder))
            if job.statement is not None:  # a sweep's question; the sweep asks it again
                continue
            if run.path in self._working or run.about.get("state") != "running" or run.alive:
                self._since.pop(run.path, None)
            elif now - self._since.setdefault(run.path, now) >= _PATIENCE:
                self._go_on(run.path)

    def _go_on(self, path: Path) -> None:
        self._tries[path] = self._tries.get(path, 0) + 1
        if self._tries[path] > _TRIES:
            return
        log.warning("nobody works on the run in %s any more: going on with it, see resumed.log", path)
        command = [sys.executable, "-m", "fedhealth.cli.main", "run", f"resume={path}"]
        with (self._home.path / "resumed.log").open("ab") as output:
            self._working[path] = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=output, stderr=output, start_new_session=True
            )
