"""A Flower run that the site takes part in: accepted only with a job that the lead signed."""

from __future__ import annotations

from dataclasses import dataclass

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import SignedJob, verify_job
from fedhealth.errors import TrustError
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.flower.client.fleet_client import FleetClient, RunInfo
from fedhealth.site.home import SiteHome
from fedhealth.site.worker import Worker


@dataclass
class ActiveRun:
    """A Flower run whose signed job was verified.

    Attributes:
        job: the verified job.
        content: the job as it was signed.
        signature: of the lead, hexadecimal.
        worker: the process that works on the run; None before its first message.

    """

    job: SignedJob
    content: str
    signature: str
    worker: Worker | None = None


def verify_run(connection: FleetClient, run_id: int, home: SiteHome, known: ActiveRun | None) -> ActiveRun:
    """Verify the signed job of a Flower run against the membership that is installed now.

    Args:
        connection: to the lead's server, which is asked for the job of a new run.
        run_id: Flower's.
        home: the hospital's folder.
        known: the run as it was verified before; None for a new one.

    Raises:
        TrustError: the lead did not sign the job, or it brings another bundle than the installed release.

    """
    membership = SignedMembership.loads(home.membership.read_bytes()).membership
    content, signature = (known.content, known.signature) if known else _read_signed_job(connection.get_run(run_id))
    job = verify_job(content, signature, membership, build_bundle().digest)
    return known or ActiveRun(job, content, signature)


def _read_signed_job(run: RunInfo) -> tuple[str, str]:
    """Return the job and the signature that a Flower run carries.

    Raises:
        TrustError: it brings another bundle than the installed release.

    """
    if run.bundle_digest != build_bundle().digest:
        raise TrustError(
            f"The code bundle of run {run.run_id} differs from the installed release ({run.bundle_digest[:12]}).",
            "Nothing was run. If this is the lead's run, install the same release of fedhealth as the lead.",
        )
    return str(run.config.get("job", "")), str(run.config.get("signature", ""))
