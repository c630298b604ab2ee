"""Requests of secure aggregation that follow the uploads: they are repeated until enough sites have replied."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import ConfigRecord, RecordDict

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.protocol.messages import SECAGG, get_config_record
from strategies.aggregation.base import SendFollowUp

_ATTEMPTS = 3  # at a request to sign, unmask or abandon


def request_until_enough(
    send_follow_up: SendFollowUp, kind: str, requests: Mapping[str, RecordDict], add_reply: Callable[[bytes, str], bool]
) -> str | None:
    """Send the requests, again after an invalid or missing reply, until enough sites have replied.

    Return None, or a description of the missing replies. An invalid reply is recorded with its sender and does not
    affect the others.

    Args:
        send_follow_up: sends them.
        kind: their message type.
        requests: by site.
        add_reply: processes one reply; returns whether there are enough now.

    """
    missing, faults = dict(requests), list[str]()
    for _ in range(_ATTEMPTS):
        for site, content in send_follow_up(kind, dict(missing)):
            try:
                is_enough = add_reply(read_secagg_bytes(content, "answer", site), site)
            except FedhealthError as fault:
                faults.append(f"{site}: {fault.problem}")
                continue
            if is_enough:  # do not wait for slow sites
                return None
            del missing[site]
    listed = "".join(f"\n  {fault}" for fault in faults)
    return f"; missing replies: {', '.join(sorted(missing)) or 'none'}.{listed}"


def build_secagg_record(message: bytes) -> RecordDict:
    """Return the content of a request."""
    return RecordDict({SECAGG: ConfigRecord({"message": message})})


def read_secagg_bytes(content: RecordDict, key: str, site: str) -> bytes:
    """Return a message of the protocol from a site's reply.

    Raises:
        FederationError: there is none.

    """
    value = get_config_record(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise FederationError(f"Site {site!r} sent no {key} for secure aggregation.", "Use secagg=on at every site.")
    return value


def read_secagg_list(content: RecordDict, key: str) -> list[bytes]:
    """Return a list of messages of the protocol from a site's reply; empty if there is none."""
    found = get_config_record(content, SECAGG).get(key, []) if SECAGG in content else []
    return [each for each in found if isinstance(each, bytes)] if isinstance(found, list) else []
