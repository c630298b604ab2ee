"""Runs in the hospitals, at the lead: which job stands behind an order, and where its run directory is."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.consortium.signed_job import Order
from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.protocol.job import Job
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_folder


def save_job(home: LeadHome, job: Job) -> None:
    """Remember a job; its run directory may lie anywhere on this machine."""
    make_folder(home.runs)
    write_atomic(home.runs / f"{job.run}.json", job.dumps().encode())


def job_of(home: LeadHome, words: str) -> Job:
    """Return the job of a signed order.

    Raises:
        ConfigError: this lead did not send it.

    """
    run = Order.parse(words).run
    path = home.runs / f"{run}.json"
    if not path.is_file():
        raise ConfigError(f"Run {run} was not started here.", "Start runs with `fedhealth run runtime=deployment`.")
    return Job.loads(path.read_text("utf-8"))


def jobs(home: LeadHome) -> Iterator[Job]:
    """Yield every job that was sent, the oldest first."""
    for path in sorted(home.runs.glob("*.json"), key=lambda path: path.stat().st_mtime):
        yield Job.loads(path.read_text("utf-8"))
