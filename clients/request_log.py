"""What a request asked for, for the audit log: directives, digests and names of sites, nothing about patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clients.message import ParsedMessage
from fedhealth.errors import FedhealthError
from fedhealth.protocol.messages import ABANDON, GLOBAL, SECAGG, SIGN, UNMASK, get_config_record
from fedhealth.secagg.protocol.abandon import AbandonRequest
from fedhealth.secagg.protocol.context import digest_attempt
from fedhealth.secagg.protocol.messages import AttemptDescriptor, SignRequest, UnmaskRequest
from fedhealth.utils.digest import digest_parts, encode_canonical

_MAX_NAMES, _MAX_NAME = 200, 64


def describe_request(message: ParsedMessage) -> dict[str, Any]:
    """Return the fields of the log entry of a request; parts that cannot be read are named as malformed."""
    directive = message.directive
    numbers = ("round", "exchange", "attempt", "repetition")
    fields = {name: getattr(directive, name) for name in ("run", "digest", *numbers)}
    fields |= {"kind": message.kind, "cohort": _shorten_names(directive.cohort)}
    fields["missed"] = _shorten_names(directive.missed)
    try:
        return fields | _describe_model(message) | _describe_protocol(message)
    except FedhealthError:
        return fields | {"malformed": True}


def _describe_model(message: ParsedMessage) -> dict[str, Any]:
    """Return the digest of the incoming arrays, as the protocol names them, and of the round's settings."""
    found = {"model": message.model_digest.hex()} if GLOBAL in message.content else {}
    if "config" in message.content:
        values = {key: str(value) for key, value in get_config_record(message.content, "config").items()}
        found["settings"] = digest_parts(b"round settings", encode_canonical(values)).hex()
    return found


def _describe_protocol(message: ParsedMessage) -> dict[str, Any]:
    """Return the attempt of secure aggregation, or the survivors that the site is asked to sign or to open."""
    record = get_config_record(message.content, SECAGG) if SECAGG in message.content else {}
    if isinstance(train := record.get("train"), bytes):
        descriptor = AttemptDescriptor.from_bytes(train)
        about = {"ctx": digest_attempt(descriptor).hex(), "base": list(descriptor.base)}
        about["history"] = descriptor.history.hex()
        return about | {"threshold": descriptor.threshold, "signed": descriptor.signed}
    if not isinstance(sent := record.get("message"), bytes):
        return {}
    if message.kind in (SIGN, UNMASK):
        request = (SignRequest if message.kind == SIGN else UnmaskRequest).from_bytes(sent)
        return {"ctx": request.ctx.hex(), "survivors": list(request.survivors)}
    if message.kind == ABANDON:
        return {"ctx": AbandonRequest.from_bytes(sent).ctx.hex()}
    return {}


def _shorten_names(names: Sequence[str]) -> list[str]:
    """Return the names of a request, bounded, since the lead chooses them."""
    return [name[:_MAX_NAME] for name in names[:_MAX_NAMES]]
