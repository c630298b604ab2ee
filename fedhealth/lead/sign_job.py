"""Sign a job with the consortium's key: sites process only signed jobs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signatures import sign_body
from fedhealth.consortium.signed_job import MAX_JOB_CHARS, PURPOSE, SignedJob
from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.utils.private_files import load_signing_key


def sign_job(
    home: LeadHome,
    run: str,
    overrides: Sequence[str],
    digest: str,
    bundle: str,
    hours: float = 72.0,
    budget_request: BudgetRequest | None = None,
    study: str = "",
) -> tuple[str, str]:
    """Build a job for the current members, sign it, and return (job, signature) as they are sent.

    Args:
        home: the lead's folder.
        run: run id of fedhealth.
        overrides: allowed by `fedhealth.config.override_allowlist`.
        digest: of the composed configuration.
        bundle: SHA-256 of the code bundle, hexadecimal.
        hours: deadline, after which no site accepts the job.
        budget_request: of a sweep, to be reserved at the sites.
        study: digest of the study that the job belongs to; empty for none.

    Raises:
        ConfigError: the job is larger than a site accepts.
        TrustError: the key or the membership cannot be read.

    """
    membership = SignedMembership.loads(home.membership.read_bytes()).membership
    now = int(time.time())
    job = SignedJob(
        project=membership.project,
        run=run,
        overrides=tuple(overrides),
        digest=digest,
        roster=membership.roster.digest.hex(),
        bundle=bundle,
        issued=now,
        expires=now + int(hours * 3600),
        nonce=secrets.token_hex(16),
        budget_request=budget_request,
        study=study,
    )
    content = job.dumps()
    if len(content) > MAX_JOB_CHARS:
        problem = f"The job has {len(content)} characters; sites accept {MAX_JOB_CHARS}."
        raise ConfigError(problem, "Split the sweep into smaller ones.")
    signature = sign_body(load_signing_key(home.consortium_key), PURPOSE, content.encode())
    return content, signature.hex()
