"""A signed job: Hydra overrides bound to project, members, bundle and time, with the consortium's signature.

Flower's control API authenticates nobody, so a site accepts a job because of its signature only. A job that has ended
at a site is never resumed there.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Annotated

from fedhealth.consortium.membership import Membership, ProjectName
from fedhealth.consortium.signatures import is_valid_hex_signature
from fedhealth.errors import TrustError
from fedhealth.protocol.budget_request import BudgetRequest, Overrides, RunId
from fedhealth.protocol.compatibility import are_compatible_releases, get_release
from fedhealth.protocol.messages import PROTOCOL_VERSION
from fedhealth.protocol.refusals import (
    JOB_EXPIRED,
    NOT_SIGNED,
    OTHER_CLOCK,
    OTHER_KIT,
    OTHER_RELEASE,
    JobRefusedError,
)
from fedhealth.utils.digest import digest_parts, encode_canonical
from fedhealth.utils.json_model import Sha256, WholeNumber, match_form, parse_json, parse_model

PURPOSE = "job"
_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_STUDY = re.compile(r"([0-9a-f]{64})?", re.ASCII)
_RELEASE = re.compile(r"[0-9A-Za-z.+!_-]{1,40}", re.ASCII)
MAX_JOB_CHARS = 2**17  # of a signed job
_CLOCK_SKEW = 300  # seconds by which two clocks may differ
JOB_ADVICE = "Nothing was run. Ask the lead whether it sent the job."


@dataclass(frozen=True)
class SignedJob:
    """A job of the lead for all sites.

    Attributes:
        project: the consortium.
        run: our own run id, unique.
        overrides: Hydra overrides.
        digest: of the configuration that they compose to at the lead.
        roster: digest of the lead's list of members, hexadecimal.
        bundle: SHA-256 of the thin Flower bundle, hexadecimal.
        issued: seconds since 1970.
        expires: seconds since 1970; a site does not reply afterwards.
        nonce: 16 random bytes, hexadecimal.
        budget_request: of a sweep; the job then reserves budget and does nothing else.
        protocol: version, see `fedhealth.protocol.messages`.
        study: digest of the study that the job belongs to, hexadecimal; empty for none.
        release: of fedhealth at the lead.

    """

    project: ProjectName
    run: RunId
    overrides: Overrides
    digest: Sha256
    roster: Sha256
    bundle: Sha256
    issued: WholeNumber
    expires: WholeNumber
    nonce: Annotated[str, match_form(_NONCE, "32 hexadecimal digits")]
    budget_request: BudgetRequest | None = None
    protocol: WholeNumber = PROTOCOL_VERSION
    study: Annotated[str, match_form(_STUDY, "64 hexadecimal digits, or none")] = ""
    release: Annotated[str, match_form(_RELEASE, "a release")] = field(default_factory=get_release)

    @property
    def work_digest(self) -> str:
        """A digest of the work: the same for a renewed job, which differs in time and nonce only."""
        work = [
            self.project,
            self.run,
            list(self.overrides),
            self.digest,
            self.budget_request and asdict(self.budget_request),
            self.study,
        ]
        return digest_parts(b"fedhealth job 3", encode_canonical(work)).hex()

    def dumps(self) -> str:
        """Return the JSON that is signed and sent."""
        return encode_canonical(asdict(self)).decode()

    @staticmethod
    def parse(content: str) -> SignedJob:
        """Parse JSON.

        Raises:
            TrustError: it is malformed.

        """
        job = parse_model(content, SignedJob, "The job", JOB_ADVICE, limit=MAX_JOB_CHARS)
        told = parse_json(content, "The job", JOB_ADVICE, limit=MAX_JOB_CHARS)
        if missing := sorted(SignedJob.__dataclass_fields__.keys() - told.keys()):  # no default is what the lead signed
            raise TrustError(f"The job: {missing[0]}: is missing.", JOB_ADVICE)
        return job


def verify_job(
    content: str, signature: str, membership: Membership, bundle: str, now: float | None = None
) -> SignedJob:
    """Return the job if it is signed by the consortium and valid for these members, this bundle and this time.

    Args:
        content: as received.
        signature: hexadecimal, as received.
        membership: the approved one.
        bundle: SHA-256 of the received bundle, already compared with that of the installed package.
        now: seconds since 1970; None for the clock's.

    Raises:
        JobRefusedError: it is not signed, not valid, of an incompatible release, or expired.

    """
    job, clock = _read_signed_content(content, signature, membership), time.time() if now is None else now
    expected = {
        "project": (membership.project, OTHER_KIT),
        "roster": (membership.roster.digest.hex(), OTHER_KIT),
        "bundle": (bundle, OTHER_RELEASE),
        "protocol": (PROTOCOL_VERSION, OTHER_RELEASE),
    }
    for name, (value, refusal) in expected.items():
        if getattr(job, name) != value:
            problem = f"The job names another {name} than this site."
            raise JobRefusedError(problem, "Use the lead's latest kit and a release that fits the lead's.", refusal)
    if not are_compatible_releases(job.release, get_release()):
        raise JobRefusedError(
            f"The lead has release {job.release}, this site {get_release()}: more than one minor version apart.",
            "Install a release that fits the lead's.",
            OTHER_RELEASE,
        )
    if job.issued > clock + _CLOCK_SKEW:
        raise JobRefusedError(
            "The job was signed in the future.", "Set the clocks of this machine and of the lead's.", OTHER_CLOCK
        )
    if clock > job.expires:
        raise JobRefusedError("The job has expired.", JOB_ADVICE, JOB_EXPIRED)
    return job


def _read_signed_content(content: str, signature: str, membership: Membership) -> SignedJob:
    """Return the job if the consortium signed it.

    Raises:
        JobRefusedError: it did not, or the job is malformed.

    """
    if len(content) > MAX_JOB_CHARS or not content.isascii():
        raise JobRefusedError("The job is too long or not ASCII.", JOB_ADVICE, NOT_SIGNED)
    if not is_valid_hex_signature(membership.consortium, signature, PURPOSE, content.encode("ascii")):
        raise JobRefusedError("The job is not signed by the consortium.", JOB_ADVICE, NOT_SIGNED)
    try:
        return SignedJob.parse(content)
    except TrustError as fault:
        raise JobRefusedError(fault.problem, fault.advice, NOT_SIGNED) from fault
