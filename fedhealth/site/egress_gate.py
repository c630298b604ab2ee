"""The one door out: what an answer may hold is predicted from the job; anything else stays.

Every answer of every runtime passes here. The prediction is made from the configuration and the model's shapes, never
from the values. What passes is logged with its digest and size before it leaves; what does not is logged and stays.
Nothing is copied, and everything is hashed once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, RecordDict

from fedhealth.errors import PrivacyError
from fedhealth.protocol.array_codec import header_of, names_in, packed_in
from fedhealth.protocol.messages import Directive, is_error_kind, payload_of, versions
from fedhealth.site.decline_reasons import told
from fedhealth.site.policy import Limits
from fedhealth.site.traffic_quota import Traffic

Log = Callable[..., None]
"""Called as log(event, **fields)."""

Shapes = Mapping[str, tuple[int, ...]]

TOWERS = {"shared", "image", "text", "tabular"}
_MOST_REASONS = 50


@dataclass(frozen=True)
class ArraysForm:
    """What a record of arrays may hold.

    Attributes:
        shapes: by name; an array may be absent, none may be added.
        dtype: of all of them: `<f4`, `<i8`, or `|u1` for masked words, whose values say nothing.

    """

    shapes: Shapes
    dtype: str

    def faults(self, record: object, limits: Limits) -> Iterator[str]:
        """Yield what does not fit; names of our own code only, never a value."""
        data = packed_in(record)
        if data is None:
            yield "it is not packed as our code packs arrays"
            return
        names = names_in(data)
        if names is None or not set(names) <= set(self.shapes):
            yield f"it holds an array that is not listed ({short(sorted(set(names or ()) - set(self.shapes)))})"
            return
        header = header_of({name: self.shapes[name] for name in names}, self.dtype)
        sizes = {name: math.prod(self.shapes[name]) * np.dtype(self.dtype).itemsize for name in sorted(names)}
        if not data.startswith(header) or len(data) != len(header) + sum(sizes.values()):
            yield "an array has another shape, type or size than predicted"
        elif self.dtype == "<f4":
            yield from _large(data, len(header), sizes, limits.largest_change)


@dataclass(frozen=True)
class WordsForm:
    """What a record of words may hold: for every key, whether a value is one that our code writes there."""

    words: Mapping[str, Callable[[Any], bool]]

    def faults(self, record: object, limits: Limits) -> Iterator[str]:
        """Yield what does not fit; never a value."""
        if not isinstance(record, ConfigRecord):
            yield "it is no record of words"
            return
        for key, value in record.items():
            if key not in self.words:
                yield f"it holds a word that is not listed ({short(key)})"
            elif not self.words[key](value):
                yield f"{key} is not of the form that is listed"


Outgoing = Mapping[str, ArraysForm | WordsForm]
"""By record name, what one answer may hold."""


@dataclass(frozen=True)
class Gate:
    """One site's door.

    Attributes:
        limits: of the site's policy.
        log: of what passes and of what is refused.
        traffic: counts the bytes of each round; None without such a limit.

    """

    limits: Limits
    log: Log
    traffic: Traffic | None = None

    def check(self, kind: str, directive: Directive, content: RecordDict, outgoing: Outgoing) -> None:
        """Let an answer pass, or raise; either is logged first.

        Args:
            kind: type of the message that is answered.
            directive: what was asked.
            content: the answer.
            outgoing: what it may hold.

        Raises:
            PrivacyError: something in it may not leave.

        """
        faults, size = list(self._faults(content, outgoing)), bytes_of(content)
        if not faults and self.traffic and not self.traffic.allows(directive, size):
            faults = [f"the round would send more than {self.traffic.most} bytes"]
        if faults:
            self.log("refused", kind=kind, run=directive.run, round=directive.round, bytes=size, faults=faults[:20])
            raise PrivacyError(f"The gate refused an answer to {kind}: {'; '.join(faults[:3])}.", "See the audit log.")
        fields = {"records": sorted(content), "bytes": size, "sha256": digest_of(content)}
        self.log("left", kind=kind, run=directive.run, round=directive.round, **fields)

    def _faults(self, content: RecordDict, outgoing: Outgoing) -> Iterator[str]:
        for name, record in content.items():
            form = outgoing.get(name)
            if form is None:
                yield f"the record {short(name)} is not part of this answer"
            elif name not in self.limits.records:
                yield f"the record {name} is not allowed by the policy"
            else:
                yield from (f"{name}: {fault}" for fault in form.faults(record, self.limits))


def check_error(kind: str, code: int, reason: str, log: Log) -> None:
    """Let an error pass if it names a kind of fault and says nothing else, or raise; either is logged first.

    Raises:
        PrivacyError: it says more.

    """
    sound = is_error_kind(code, reason)
    log("failed" if sound else "refused", kind=kind, code=code, reason=reason if sound else "not listed")
    if not sound:
        raise PrivacyError(f"The gate refused an error that says more than its kind ({code}).", "See the log.")


def acceptance_form(site: str) -> WordsForm:
    """Return what a site's acceptance may hold: its name, releases, coarse weights, and reasons that are listed."""
    return WordsForm(
        {
            "site": lambda value: value == site,
            "versions": lambda value: value == versions(),
            "reasons": lambda value: len(value) <= _MOST_REASONS and all(told(reason) == reason for reason in value),
            "exchange": lambda value: isinstance(value, int) and 0 <= value < 2**31,
            "reserved": lambda value: isinstance(value, float) and 0 <= value < 2.0**40,
            "towers": lambda value: set(value) <= TOWERS and len(set(value)) == len(value),
            "weights": lambda value: len(value) <= len(TOWERS) and all(0 <= weight < 2.0**40 for weight in value),
        }
    )


def bytes_of(content: RecordDict) -> int:
    """Return the payload in bytes (words as they print)."""
    return sum(map(payload_of, content.values()))


def digest_of(content: RecordDict) -> str:
    """Return the SHA-256 over all names and values, records in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(content):
        record = content[name]
        digest.update(f"{len(name)}|{name}|{len(record)}|".encode())
        for key, value in record.items():
            data = _bytes(value)
            digest.update(f"{len(key)}|{key}|{len(data)}|".encode())
            digest.update(data)
    return digest.hexdigest()


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.data if isinstance(value, Array) else repr(value).encode()


def short(name: object) -> str:
    """Return how a name that nobody listed appears in the log: it may be free text itself."""
    return f"sha256 {hashlib.sha256(str(name).encode()).hexdigest()[:12]}"


def _large(data: bytes, start: int, sizes: Mapping[str, int], most: float) -> Iterator[str]:
    """Yield the arrays (float32, one behind the other) that hold something beyond `most`, or no number."""
    for name, size in sizes.items():
        values = np.frombuffer(data, "<f4", count=size // 4, offset=start)
        start += size
        if not np.max(np.abs([values.max(initial=0), values.min(initial=0)])) <= most:  # a NaN is not
            yield f"{name} is not finite, or changes by more than {most:g}"
