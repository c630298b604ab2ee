"""The signed jobs that a site has seen: each may be resumed until it ends, and never afterwards (no replay)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from fedhealth.consortium.signed_job import JOB_ADVICE, SignedJob
from fedhealth.protocol.refusals import JOB_ENDED, TOO_MANY_HOURS, JobRefusedError
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.json_model import parse_model
from fedhealth.utils.private_files import make_private_folder


class RunEnd(StrEnum):
    """Who or what ended a run here, in the audit log."""

    lead = "lead"
    expiry = "expiry"  # limits.hours had passed
    recovery = "recovery"  # `fedhealth site recover`


_FILE = "job_history.json"
_RECOVERY = "_recovery"  # beside the runs, whose ids have other forms
_LARGEST = 2**26  # bytes
_ADVICE = "Restore it from a backup, and run `fedhealth site recover`."


@dataclass(frozen=True)
class _SeenJob:
    """When a job was first seen and when it ended, in seconds since 1970, and the digest of its work."""

    digest: str
    seen: float
    ended: float | None


@dataclass(frozen=True)
class _Recovery:
    """When this site was recovered, and which run goes on."""

    time: float
    run: str


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
        (known, recovery), digest = _load_jobs(self._path), job.work_digest
        new = job.run not in known
        if new and job.run != recovery.run and job.issued <= recovery.time:
            raise JobRefusedError(
                f"Run {job.run} was signed before this site was recovered; it may have ended here.",
                JOB_ADVICE,
                JOB_ENDED,
            )
        seen = known.setdefault(job.run, _SeenJob(digest, self._clock(), None))
        if seen.digest != digest:
            raise JobRefusedError(f"Run {job.run} was used for another job before.", JOB_ADVICE, JOB_ENDED)
        if seen.ended is not None:
            raise JobRefusedError(f"Run {job.run} has ended; its job is not accepted again.", JOB_ADVICE, JOB_ENDED)
        begun = min(seen.seen, job.issued)  # after a restore from an older copy, the job is seen for the first time
        if self._clock() > begun + hours * 3600:
            raise JobRefusedError(
                f"Run {job.run} has taken longer than {hours:g} hours, the limit of this site.",
                "Raise limits.hours in site.yaml if the run may continue.",
                TOO_MANY_HOURS,
            )
        if new:
            self._save(known, recovery)

    def mark_ended(self, run: str) -> None:
        """Record that a run has ended; unknown runs are ignored."""
        known, recovery = _load_jobs(self._path)
        if run in known and known[run].ended is None:
            self._save({**known, run: replace(known[run], ended=self._clock())}, recovery)

    def refuse_unknown_jobs(self, going_on: str) -> None:
        """Refuse from now on every job that was signed before and is not known, except that of one run.

        After a restore the site cannot know which of them have ended.
        """
        known, _ = _load_jobs(self._path)
        self._save(known, _Recovery(self._clock(), going_on))

    def find_expired(self, hours: float) -> list[str]:
        """Return the runs that have not ended but have exceeded the maximum duration."""
        oldest = self._clock() - hours * 3600
        known, _ = _load_jobs(self._path)
        return [run for run, entry in known.items() if entry.ended is None and entry.seen < oldest]

    def _save(self, known: dict[str, _SeenJob], recovery: _Recovery) -> None:
        make_private_folder(self._path.parent)
        jobs = {run: asdict(entry) for run, entry in known.items()}
        write_atomic(self._path, encode_canonical({**jobs, _RECOVERY: asdict(recovery)}))


def find_ended_runs(folder: Path) -> frozenset[str]:
    """Return the runs that have ended here for good, by the site's private folder; none for a virtual site."""
    known, _ = _load_jobs(folder / _FILE)
    return frozenset(run for run, entry in known.items() if entry.ended is not None)


def list_known_runs(folder: Path) -> frozenset[str]:
    """Return the runs whose job was accepted here, by the site's private folder."""
    return frozenset(_load_jobs(folder / _FILE)[0])


def _load_jobs(path: Path) -> tuple[dict[str, _SeenJob], _Recovery]:
    """Return the jobs by run, and the last recovery."""
    content = path.read_bytes() if path.exists() else b"{}"
    found = parse_model(content, dict[str, _SeenJob | _Recovery], str(path), _ADVICE, limit=_LARGEST)
    recovery = found.get(_RECOVERY)
    jobs = {run: entry for run, entry in found.items() if isinstance(entry, _SeenJob)}
    return jobs, recovery if isinstance(recovery, _Recovery) else _Recovery(0.0, "")
