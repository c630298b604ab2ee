"""The lead's signature on a job."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signatures import sign
from fedhealth.consortium.signed_job import LIMIT, PURPOSE, Order
from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.protocol.budget_request import Statement
from fedhealth.utils.private_files import load_signing_key


def make_order(
    home: LeadHome,
    run: str,
    words: Sequence[str],
    digest: str,
    bundle: str,
    hours: float = 72.0,
    statement: Statement | None = None,
) -> tuple[str, str]:
    """Return (job, signature) as they are sent: a job of these words for the present members.

    Args:
        home: the lead's.
        run: our own run id.
        words: override words that a site accepts, see `fedhealth.config.override_allowlist`.
        digest: of the configuration that they compose to.
        bundle: SHA-256 of the bundle, hexadecimal.
        hours: after which no site answers any more.
        statement: of a sweep, to be reserved.

    Raises:
        ConfigError: more is asked at once than a site reads.
        TrustError: the key or the membership cannot be read.

    """
    membership = SignedMembership.loads(home.membership.read_bytes()).membership
    now = int(time.time())
    order = Order(
        project=membership.project,
        run=run,
        words=tuple(words),
        digest=digest,
        roster=membership.roster.digest.hex(),
        bundle=bundle,
        issued=now,
        expires=now + int(hours * 3600),
        nonce=secrets.token_hex(16),
        statement=statement,
    )
    content = order.dumps()
    if len(content) > LIMIT:
        raise ConfigError(f"The job takes {len(content)} characters, {LIMIT} are read.", "Split the sweep.")
    signature = sign(load_signing_key(home.consortium_key), PURPOSE, content.encode())
    return content, signature.hex()
