"""The jobs that this lead has signed, and where their run directories are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.lead.home import LeadHome
from fedhealth.protocol.job import Job
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.plain_files import is_plain_file, read_plain_file
from fedhealth.utils.private_files import make_private_folder


def save_job(home: LeadHome, job: Job) -> None:
    """Store a job; its run directory may be anywhere on this machine."""
    make_private_folder(home.runs)
    write_atomic(home.runs / f"{job.run}.json", job.dumps().encode())


def load_job(home: LeadHome, words: str) -> Job:
    """Return the job with the run id of a signed job.

    Raises:
        ConfigError: this lead did not start it.

    """
    run = SignedJob.parse(words).run
    path = home.runs / f"{run}.json"
    if not is_plain_file(path):
        raise ConfigError(
            f"Run {run} was not started on this machine: {path} does not exist.",
            "Start runs with `fedhealth run runtime=deployment`.",
        )
    return Job.loads(read_plain_file(path).decode())


def iter_jobs(home: LeadHome) -> Iterator[Job]:
    """Yield every job that was sent, oldest first, without those whose files are damaged."""
    return (job for path in _list_files(home) if (job := _read_job(path)) is not None)


def list_damaged_jobs(home: LeadHome) -> list[Path]:
    """Return the files that should hold a job and do not."""
    return [path for path in _list_files(home) if _read_job(path) is None]


def _list_files(home: LeadHome) -> list[Path]:
    return sorted(home.runs.glob("*.json"), key=lambda path: path.lstat().st_mtime)


def _read_job(path: Path) -> Job | None:
    try:
        return Job.loads(read_plain_file(path).decode())
    except (FedhealthError, OSError, ValueError):
        return None
