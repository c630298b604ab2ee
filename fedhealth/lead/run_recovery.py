"""Resume orphaned runs, whose launcher process or machine has died."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.runs.run_dir import RunDir

log = logging.getLogger("fedhealth.lead")

_ORPHANED_SECONDS = 5.0  # delay before a run without launcher is resumed: a person who resumes it by hand comes first
_POLL_SECONDS = 2.0
_MAX_RETRIES = 3  # for one run, during the lifetime of this server process


class RunRecovery:
    """Resumes the lead's runs that have the state `running` but whose lock no process holds.

    Runs that failed or were stopped have another state; they are not resumed.

    Args:
        home: the lead's folder.

    """

    def __init__(self, home: LeadHome) -> None:
        self._home = home
        self._orphaned_since: dict[Path, float] = {}
        self._retries: dict[Path, int] = {}
        self._launchers: dict[Path, subprocess.Popen[bytes]] = {}
        self._last_poll = 0.0

    def resume_orphaned_runs(self) -> None:
        """Resume runs that have had no launcher for `_ORPHANED_SECONDS`; cheap to call often."""
        now = time.monotonic()
        if now - self._last_poll < _POLL_SECONDS:
            return
        self._last_poll = now
        self._launchers = {path: process for path, process in self._launchers.items() if process.poll() is None}
        for job in iter_jobs(self._home):
            run = RunDir(Path(job.folder))
            if job.budget_request is not None:  # a sweep's budget request: the sweep retries it itself
                continue
            if run.path in self._launchers or run.info.state != "running" or run.is_running:
                self._orphaned_since.pop(run.path, None)
            elif now - self._orphaned_since.setdefault(run.path, now) >= _ORPHANED_SECONDS:
                self._resume(run.path)

    def _resume(self, path: Path) -> None:
        self._retries[path] = self._retries.get(path, 0) + 1
        if self._retries[path] > _MAX_RETRIES:
            return
        log.warning("the launcher of the run in %s has died: resuming the run, see resumed.log", path)
        command = [sys.executable, "-m", "fedhealth.cli.main", "run", f"resume={path}"]
        with (self._home.path / "resumed.log").open("ab") as output:
            self._launchers[path] = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=output, stderr=output, start_new_session=True
            )
