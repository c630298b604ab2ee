"""The signed jobs that a site has seen: each may be resumed until it ends, and never afterwards (no replay)."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedhealth.consortium.signatures import parse_json
from fedhealth.consortium.signed_job import JOB_ADVICE, SignedJob
from fedhealth.protocol.refusals import JOB_ENDED, TOO_MANY_HOURS, JobRefusedError
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.private_files import make_private_folder


class RunEnd(StrEnum):
    """Who or what ended a run here, in the audit log."""

    lead = "lead"
    expiry = "expiry"  # limits.hours had passed
    recovery = "recovery"  # `fedhealth site recover`


_FILE = "job_history.json"
_RECOVERY = "_recovery"  # beside the runs, whose ids have other forms: when this site was recovered, which run goes on


class JobHistory:
    """The jobs that this site has seen, stored in a file.

    Args:
        home: the hospital's folder.
        clock: seconds since 1970.

    """

    def __init__(self, home: SiteHome, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home.state / _FILE, clock

    def start_or_resume(self, job: SignedJob, hours: float) -> None:
        """Record a job when it is first seen; later check that it may still be worked on.

        Args:
            job: verified.
            hours: maximum duration of one run.

        Raises:
            JobRefusedError: the job ended here, its time is over, or another job used its run id.

        """
        known, digest = self._load(), job.work_digest
        new = job.run not in known
        recovery = known.pop(_RECOVERY, {"time": 0.0, "run": ""})
        if new and job.run != recovery["run"] and job.issued <= recovery["time"]:
            raise JobRefusedError(
                f"Run {job.run} was signed before this site was recovered; it may have ended here.",
                JOB_ADVICE,
                JOB_ENDED,
            )
        seen = known.setdefault(job.run, {"digest": digest, "seen": self._clock(), "ended": None})
        if seen["digest"] != digest:
            raise JobRefusedError(f"Run {job.run} was used for another job before.", JOB_ADVICE, JOB_ENDED)
        if seen["ended"] is not None:
            raise JobRefusedError(f"Run {job.run} has ended; its job is not accepted again.", JOB_ADVICE, JOB_ENDED)
        begun = min(seen["seen"], job.issued)  # after a restore from an older copy, the job is seen for the first time
        if self._clock() > begun + hours * 3600:
            raise JobRefusedError(
                f"Run {job.run} has taken longer than {hours:g} hours, the limit of this site.",
                "Raise limits.hours in site.yaml if the run may continue.",
                TOO_MANY_HOURS,
            )
        if new:
            self._save({**known, _RECOVERY: recovery})

    def mark_ended(self, run: str) -> None:
        """Record that a run has ended; unknown runs are ignored."""
        known = self._load()
        if run in known and known[run]["ended"] is None:
            known[run]["ended"] = self._clock()
            self._save(known)

    def refuse_unknown_jobs(self, going_on: str) -> None:
        """Refuse from now on every job that was signed before and is not known, except that of one run.

        After a restore the site cannot know which of them have ended.
        """
        self._save({**self._load(), _RECOVERY: {"time": self._clock(), "run": going_on}})

    def find_expired(self, hours: float) -> list[str]:
        """Return the runs that have not ended but have exceeded the maximum duration."""
        oldest = self._clock() - hours * 3600
        runs = {run: entry for run, entry in self._load().items() if run != _RECOVERY}
        return [run for run, entry in runs.items() if entry["ended"] is None and entry["seen"] < oldest]

    def _load(self) -> dict[str, Any]:
        return _load_jobs(self._path)

    def _save(self, known: dict[str, Any]) -> None:
        make_private_folder(self._path.parent)
        write_atomic(self._path, encode_canonical(known))


def find_ended_runs(folder: Path) -> frozenset[str]:
    """Return the runs that have ended here for good, by the site's private folder; none for a virtual site."""
    runs = {run: entry for run, entry in _load_jobs(folder / _FILE).items() if run != _RECOVERY}
    return frozenset(run for run, entry in runs.items() if entry["ended"] is not None)


def list_known_runs(folder: Path) -> frozenset[str]:
    """Return the runs whose job was accepted here, by the site's private folder."""
    return frozenset(run for run in _load_jobs(folder / _FILE) if run != _RECOVERY)


def _load_jobs(path: Path) -> dict[str, Any]:
    return dict(parse_json(path.read_bytes(), str(path), 2**26)) if path.exists() else {}
