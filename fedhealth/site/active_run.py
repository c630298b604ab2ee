"""A Flower run that the site takes part in: accepted only with a job that the lead signed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhealth.config.capabilities import get_capability
from fedhealth.config.compose import compose_with_choices
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import SignedJob, verify_job
from fedhealth.errors import ConfigError
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.flower.client.fleet_client import FleetClient, RunInfo
from fedhealth.flower.client.message_codec import EncodedMessage
from fedhealth.protocol.messages import TIMED_KINDS
from fedhealth.protocol.refusals import OTHER_RELEASE, JobRefusedError
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Resources, load_policy
from fedhealth.site.receive_study import receive_study
from fedhealth.site.worker import Worker, WorkerError, record_task_failure


@dataclass
class ActiveRun:
    """A Flower run whose signed job was verified.

    Attributes:
        job: the verified job.
        content: the job as it was signed.
        signature: of the lead, hexadecimal.
        worker: the process that works on the run; None before its first message.
        is_private: whether its replies leave on the time grid, see `read_protection`.
        is_plaintext: whether the lead reads this hospital's own replies, see `read_protection`; None if unknown.

    """

    job: SignedJob
    content: str
    signature: str
    worker: Worker | None = None
    is_private: bool = True
    is_plaintext: bool | None = None

    def start_worker(self, home: SiteHome, application: str, node_id: int) -> None:
        """Start the run's worker if it has none or the last one has ended."""
        if self.worker is None or not self.worker.is_alive:
            self.worker = Worker(home.path, application, node_id, home.log_file, self.is_private)

    def process(self, home: SiteHome, message: EncodedMessage, kind: str, limits: Resources) -> EncodedMessage:
        """Return the worker's reply to a message.

        Raises:
            WorkerError: it died or exceeded a limit; that is recorded, and what the run has booked is spent.
            UnrecordedFailureError: it failed, and the privacy ledger cannot be written: nothing may leave.

        """
        assert self.worker is not None  # noqa: S101 - `start_worker` comes first
        try:
            return self.worker.process(self.content, message, limits)
        except WorkerError:
            if kind in TIMED_KINDS:
                record_task_failure(home, self.content)
            raise

    def stop_worker(self) -> None:
        """Kill the run's worker, if it has one."""
        if self.worker is not None:
            self.worker.stop()


def verify_run(connection: FleetClient, run_id: int, home: SiteHome, known: ActiveRun | None) -> ActiveRun:
    """Verify the signed job of a Flower run against the membership that is installed now.

    Args:
        connection: to the lead's server, which is asked for the job of a new run.
        run_id: Flower's.
        home: the hospital's folder.
        known: the run as it was verified before; None for a new one.

    Raises:
        JobRefusedError: the lead did not sign the job, or it brings another bundle than the installed release.

    """
    membership = SignedMembership.loads(home.membership.read_bytes()).membership
    if known:
        verify_job(known.content, known.signature, membership, build_bundle().digest)
        return known
    content, signature, study = _read_signed_job(connection.get_run(run_id))
    job = verify_job(content, signature, membership, build_bundle().digest)
    if job.study and study:
        receive_study(study.encode(), membership, home, load_policy(home))
    return ActiveRun(job, content, signature)


def describe_order(run: ActiveRun) -> dict[str, Any]:
    """Return the words of an order for the audit log, with the lead's signature: what was asked, and by whom."""
    order = json.loads(run.content)
    words = {"run": run.job.run, "digest": run.job.digest, "order": order, "signature": run.signature}
    return {**words, "plaintext": run.is_plaintext}


def read_protection(job: SignedJob, conf: Path | None) -> tuple[bool, bool | None]:
    """Return whether a job has differential privacy, and whether the lead reads this hospital's own replies to it.

    A job that does not compose here counts as private; what the lead would read of it is not known: None.

    Args:
        job: a verified job.
        conf: the site's own folder of configuration files; None for none.

    """
    try:
        if find_override_errors(job.overrides, conf):
            return True, None
        config, choices = compose_with_choices(job.overrides, conf)
    except ConfigError:
        return True, None
    return choices.get("privacy") != "none", get_capability(config.secagg["site"], "is_plaintext", default=True)


def _read_signed_job(run: RunInfo) -> tuple[str, str, str]:
    """Return the job, its signature and the study that a Flower run carries.

    Raises:
        JobRefusedError: it brings another bundle than the installed release.

    """
    if run.bundle_digest != build_bundle().digest:
        raise JobRefusedError(
            f"The code bundle of run {run.run_id} differs from the installed release ({run.bundle_digest[:12]}).",
            "Nothing was run. If this is the lead's run, install a release of fedhealth that fits the lead's.",
            OTHER_RELEASE,
        )
    job, signature, study = (str(run.config.get(name, "")) for name in ("job", "signature", "study"))
    return job, signature, study
