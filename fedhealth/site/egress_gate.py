"""The egress gate: a reply leaves a site only if it matches the schema that the job predicts.

Every reply of every runtime passes it. The schema is derived from the configuration and the model's shapes, never from
the values. A reply that matches is logged with its digest and size before it leaves; any other is logged and blocked.
Nothing is copied, and everything is hashed once; a virtual site, which keeps no log, hashes nothing.

A reply of a private run that is computed from patients' data leaves only if the privacy ledger confirms that its words
are recorded as released.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from flwr.app import Array, ConfigRecord, RecordDict

from fedhealth.errors import PrivacyError
from fedhealth.protocol.array_codec import build_packed_header, get_packed_bytes, list_packed_names
from fedhealth.protocol.count_codec import get_count_bytes
from fedhealth.protocol.messages import (
    STATEMENT,
    Directive,
    PrivacyClaim,
    compute_record_size,
    get_versions,
    is_error_kind,
)
from fedhealth.site.decline_reasons import RECORD_NOT_ALLOWED, REPLY_TOO_LARGE, format_reason, redact_reason
from fedhealth.site.policy import SiteLimits
from fedhealth.site.traffic_quota import TrafficQuota
from fedhealth.utils.digest import TranscriptDigest

WriteEvent = Callable[..., None]
"""Called as log(event, **fields)."""

Shapes = Mapping[str, tuple[int, ...]]

TOWERS = {"shared", "image", "text", "tabular"}
_MAX_REASONS = 50
_CLAIMED = tuple(each.name for each in fields(PrivacyClaim))


@dataclass(frozen=True)
class ArrayRecordSchema:
    """The arrays that a record may hold.

    Attributes:
        shapes: by name; an array may be absent, no other may be added.
        dtype: of all arrays: `<f4`, or `|u1` for masked vectors, whose values carry no information.

    """

    shapes: Shapes
    dtype: str

    def find_violations(self, record: object, limits: SiteLimits) -> Iterator[str]:
        """Yield every deviation; only names of our own code appear in it, never a value."""
        return _find_array_violations(get_packed_bytes(record), self.shapes, self.dtype, limits)


@dataclass(frozen=True)
class CountRecordSchema:
    """The int64 counts that a record may hold.

    Attributes:
        shapes: by name; an array may be absent, no other may be added.

    """

    shapes: Shapes
    dtype: ClassVar[str] = "<i8"

    def find_violations(self, record: object, limits: SiteLimits) -> Iterator[str]:
        """Yield every deviation; only names of our own code appear in it, never a value."""
        return _find_array_violations(get_count_bytes(record), self.shapes, self.dtype, limits)


@dataclass(frozen=True)
class ConfigRecordSchema:
    """The keys that a `ConfigRecord` may hold, each with a predicate that accepts the values our code writes there."""

    validators: Mapping[str, Callable[[Any], bool]]

    def find_violations(self, record: object, limits: SiteLimits) -> Iterator[str]:
        """Yield every deviation; never a value."""
        if not isinstance(record, ConfigRecord):
            yield "it is no ConfigRecord"
            return
        for key, value in record.items():
            if key not in self.validators:
                yield f"it holds a key that is not in the schema ({hash_name(key)})"
            elif not self.validators[key](value):
                yield f"the value of {key} is not one that the schema allows"


ReplySchema = Mapping[str, ArrayRecordSchema | CountRecordSchema | ConfigRecordSchema]
"""The schema of one reply, by record name."""


@dataclass(frozen=True)
class ReleaseReceipt:
    """What a private reply shows the gate.

    Attributes:
        digest: keyed digest of the un-masked words, as in the privacy ledger.
        is_recorded: asks the ledger whether these words are recorded as released.

    """

    digest: str
    is_recorded: Callable[[], bool]


@dataclass(frozen=True)
class EgressGate:
    """One site's egress gate.

    Attributes:
        limits: of the site's policy.
        log: writes every decision to the audit log.
        quota: limits the bytes of each round; None for no limit.
        is_audited: whether the log is kept; if not, nothing is hashed for it.

    """

    limits: SiteLimits
    log: WriteEvent
    quota: TrafficQuota | None = None
    is_audited: bool = True

    def check(
        self,
        kind: str,
        directive: Directive,
        content: RecordDict,
        schema: ReplySchema,
        receipt: ReleaseReceipt | None = None,
    ) -> None:
        """Return if a reply may leave, raise if it may not; the decision is logged first.

        Args:
            kind: message type of the request.
            directive: the request.
            content: the reply.
            schema: what the reply may hold.
            receipt: of the release; None for a reply that holds nothing private.

        Raises:
            PrivacyError: the reply holds something that may not leave.

        """
        faults, size = list(self._find_violations(content, schema)), count_payload_bytes(content)
        if receipt is not None and not receipt.is_recorded():
            faults.append("the privacy ledger holds no release of these words")
        if not faults and self.quota and not self.quota.try_consume(directive, size):
            faults = [f"this round would send more than {self.quota.max_bytes} bytes (limits.megabytes_per_round)"]
        if faults:
            self.log("refused", kind=kind, run=directive.run, round=directive.round, bytes=size, faults=faults[:20])
            problem = f"The egress gate blocked a reply to {kind}: {'; '.join(faults[:3])}."
            raise PrivacyError(problem, "Nothing was sent. See `fedhealth site audit show` and site.yaml.")
        fields = {"records": sorted(content), "bytes": size}
        fields |= {"sha256": compute_record_digest(content)} if self.is_audited else {}
        fields |= {"release": receipt.digest} if receipt is not None else {}
        self.log("left", kind=kind, run=directive.run, round=directive.round, **fields)

    def find_unsendable(self, schemas: Sequence[ReplySchema]) -> list[str]:
        """Return why replies of these schemas could never leave, so that the site can decline before it books one."""
        names = sorted({name for schema in schemas for name in schema} - set(self.limits.records))
        reasons = [format_reason(RECORD_NOT_ALLOWED, name) for name in names]
        largest = max(map(_count_array_bytes, schemas), default=0)
        if self.quota is not None and largest > self.quota.max_bytes:
            reasons.append(format_reason(REPLY_TOO_LARGE, largest, self.quota.max_bytes))
        return reasons

    def _find_violations(self, content: RecordDict, schema: ReplySchema) -> Iterator[str]:
        for name, record in content.items():
            form = schema.get(name)
            if form is None:
                yield f"the record {hash_name(name)} is not part of this reply"
            elif name not in (*self.limits.records, STATEMENT):  # hashes only; without it no restore would be noticed
                yield f"the record {name} is not allowed by the policy (limits.records)"
            else:
                yield from (f"{name}: {fault}" for fault in form.find_violations(record, self.limits))


def _find_array_violations(data: bytes | None, shapes: Shapes, dtype: str, limits: SiteLimits) -> Iterator[str]:
    """Yield every deviation of packed arrays; None is a record that is packed otherwise."""
    if data is None:
        yield "its arrays are not packed as fedhealth packs them"
        return
    names = list_packed_names(data)
    if names is None or not set(names) <= set(shapes):
        unexpected = sorted(set(names or ()) - set(shapes))
        yield f"it holds an array that is not in the schema ({hash_name(unexpected)})"
        return
    header = build_packed_header({name: shapes[name] for name in names}, dtype)
    sizes = {name: math.prod(shapes[name]) * np.dtype(dtype).itemsize for name in sorted(names)}
    if not data.startswith(header) or len(data) != len(header) + sum(sizes.values()):
        yield "an array has another shape, type or size than the schema"
    elif dtype == "<f4":
        yield from _find_large_values(data, len(header), sizes, limits.largest_change)


def _count_array_bytes(schema: ReplySchema) -> int:
    records = [record for record in schema.values() if not isinstance(record, ConfigRecordSchema)]
    return sum(
        math.prod(shape) * np.dtype(record.dtype).itemsize for record in records for shape in record.shapes.values()
    )


def check_error(kind: str, code: int, reason: str, log: WriteEvent) -> None:
    """Return if an error reply holds an error class and nothing else, raise otherwise; the decision is logged first.

    Raises:
        PrivacyError: it holds more than its class.

    """
    sound = is_error_kind(code, reason)
    log("failed" if sound else "refused", kind=kind, code=code, reason=reason if sound else "not listed")
    if not sound:
        problem = f"The egress gate blocked an error reply that holds more than its error class ({code})."
        raise PrivacyError(problem, "Nothing was sent. See `fedhealth site audit show`.")


def make_acceptance_schema(site: str) -> ConfigRecordSchema:
    """Return the schema of a site's acceptance: name, releases, coarse weights, privacy, and listed reasons."""
    return ConfigRecordSchema(
        {
            "site": lambda value: value == site,
            "versions": lambda value: value == get_versions(),
            "reasons": lambda value: (
                len(value) <= _MAX_REASONS and all(redact_reason(reason) == reason for reason in value)
            ),
            "exchange": lambda value: isinstance(value, int) and 0 <= value < 2**31,
            "reserved": lambda value: isinstance(value, float) and 0 <= value < 2.0**40,
            **dict.fromkeys(_CLAIMED, lambda value: isinstance(value, float) and 0 <= value < 2.0**40),
            "towers": lambda value: set(value) <= TOWERS and len(set(value)) == len(value),
            "weights": lambda value: len(value) <= len(TOWERS) and all(0 <= weight < 2.0**40 for weight in value),
        }
    )


def count_payload_bytes(content: RecordDict) -> int:
    """Return the payload in bytes (configuration values count as printed)."""
    return sum(map(compute_record_size, content.values()))


def compute_record_digest(content: RecordDict) -> str:
    """Return the SHA-256 over all names and values, records in order of their names."""
    digest = TranscriptDigest(b"fedhealth records 2")
    for name in sorted(content):
        record = content[name]
        digest.add(name.encode(), len(record).to_bytes(8, "little"))
        for key, value in record.items():
            digest.add(key.encode(), _encode_value(value))
    return digest.hexdigest()


def _encode_value(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.data if isinstance(value, Array) else repr(value).encode()


def hash_name(name: object) -> str:
    """Return a hash to log instead of an unexpected name, which may itself be free text about a patient."""
    return f"sha256 {hashlib.sha256(str(name).encode()).hexdigest()[:12]}"


def _find_large_values(data: bytes, start: int, sizes: Mapping[str, int], limit: float) -> Iterator[str]:
    """Yield the arrays (float32, stored back to back) that hold a value beyond `limit`, infinity or NaN."""
    for name, size in sizes.items():
        values = np.frombuffer(data, "<f4", count=size // 4, offset=start)
        start += size
        if not np.max(np.abs([values.max(initial=0), values.min(initial=0)])) <= limit:  # False for NaN
            yield f"{name} is not finite, or changes by more than {limit:g}"
