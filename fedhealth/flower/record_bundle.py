"""The small records of a message travel as one Flower object.

Flower announces, stores, transfers and deletes each record of a message as an object of its own: about sixteen SQL
statements at the server, and a request at either end. A message between lead and hospital has three to six small
records; together they cost as much as one.
"""

from __future__ import annotations

from contextlib import suppress

from flwr.app import ConfigRecord, RecordDict
from google.protobuf.message import DecodeError

BUNDLE = "bundle"
LARGEST = 2**15
"""Bytes of the largest record in a bundle. A larger one that is the same for all sites is stored and sent to the server
only once if it stays alone."""


def bundle_records(content: RecordDict) -> RecordDict:
    """Return a message's content with its small records in one, as `unbundle_records` reads it."""
    packed = {name: record.deflate() for name, record in content.config_records.items()}
    small = {name: data for name, data in packed.items() if len(data) <= LARGEST}
    if len(small) < 2 or BUNDLE in content:
        return content
    bundle = ConfigRecord({"names": list(small), "records": list(small.values())})
    return RecordDict({BUNDLE: bundle, **{name: each for name, each in content.items() if name not in small}})


def unbundle_records(content: RecordDict) -> RecordDict:
    """Return a message's content as it was before `bundle_records`.

    A malformed bundle stays as it is: whoever needs one of its records misses it, and says so.
    """
    if BUNDLE not in content:
        return content
    with suppress(ValueError, TypeError, DecodeError):
        found = _read_bundle(content[BUNDLE])
        others = {name: record for name, record in content.items() if name != BUNDLE}
        if BUNDLE not in found and not found.keys() & others.keys():
            return RecordDict({**found, **others})
    return content


def _read_bundle(record: object) -> dict[str, ConfigRecord]:
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    names, parts = values.get("names"), values.get("records")
    if values.keys() != {"names", "records"} or not isinstance(names, list) or not isinstance(parts, list):
        raise ValueError("not a list of names and one of records")
    if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError("the names are no distinct texts")
    packed = [part for part in parts if isinstance(part, bytes)]
    return {str(name): ConfigRecord.inflate(part) for name, part in zip(names, packed, strict=True)}
