"""A signed job: Hydra overrides bound to project, members, bundle and time, with the consortium's signature.

Flower's control API authenticates nobody, so a site accepts a job because of its signature only. A job that has ended
at a site is never resumed there.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fedhealth.consortium.json_fields import check_fields, get_matching_text, get_text, get_whole_number, parse_hex
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signatures import is_valid_signature, parse_json
from fedhealth.errors import TrustError
from fedhealth.protocol.budget_request import MAX_OVERRIDES, BudgetRequest
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

PURPOSE = "job"
_RUN = re.compile(r"[a-z0-9]{8,40}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_RELEASE = re.compile(r"[0-9A-Za-z.+!_-]{1,40}", re.ASCII)
MAX_JOB_CHARS = 2**17  # of a signed job
_MAX_OVERRIDE_CHARS = 1000
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

    project: str
    run: str
    overrides: tuple[str, ...]
    digest: str
    roster: str
    bundle: str
    issued: int
    expires: int
    nonce: str
    budget_request: BudgetRequest | None = None
    protocol: int = PROTOCOL_VERSION
    study: str = ""
    release: str = field(default_factory=get_release)

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
        fields = parse_json(content, "The job", MAX_JOB_CHARS)
        check_fields(fields, set(SignedJob.__dataclass_fields__), "job")
        overrides = fields["overrides"]
        if not isinstance(overrides, list) or len(overrides) > MAX_OVERRIDES or not all(map(_is_override, overrides)):
            raise TrustError("The job's overrides are too many, too long, or not text.", JOB_ADVICE)
        digests = {
            name: parse_hex(get_text(fields, name, "job"), 32, name).hex() for name in ("digest", "roster", "bundle")
        }
        study = get_text(fields, "study", "job")
        return SignedJob(
            project=get_matching_text(fields, "project", _NAME),
            run=get_matching_text(fields, "run", _RUN),
            overrides=tuple(overrides),
            issued=get_whole_number(fields, "issued"),
            expires=get_whole_number(fields, "expires"),
            nonce=parse_hex(get_text(fields, "nonce", "job"), 16, "nonce").hex(),
            budget_request=_parse_budget_request(fields["budget_request"]),
            protocol=get_whole_number(fields, "protocol"),
            study=study and parse_hex(study, 32, "study").hex(),
            release=get_matching_text(fields, "release", _RELEASE),
            **digests,
        )


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
    try:
        proof = parse_hex(signature, 64, "signature of a job")
        is_signed = is_valid_signature(membership.consortium, proof, PURPOSE, content.encode("ascii"))
        job = SignedJob.parse(content) if is_signed else None
    except TrustError as fault:
        raise JobRefusedError(fault.problem, fault.advice, NOT_SIGNED) from fault
    if job is None:
        raise JobRefusedError("The job is not signed by the consortium.", JOB_ADVICE, NOT_SIGNED)
    return job


def _parse_budget_request(fields: Any) -> BudgetRequest | None:
    try:
        return BudgetRequest.parse(fields)
    except ValueError as fault:
        raise TrustError(f"The job's budget request is malformed: {fault}.", JOB_ADVICE) from fault


def _is_override(override: Any) -> bool:
    return isinstance(override, str) and len(override) <= _MAX_OVERRIDE_CHARS and override.isprintable()
