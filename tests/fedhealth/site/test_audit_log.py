"""The log of what left: it only grows, and what was changed shows."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import TrustError
from fedhealth.site.audit_log import AuditLog, count_events, export_log, get_log_digest, verify_export, verify_log


@pytest.fixture(name="path")
def path_(tmp_path):
    log = AuditLog(tmp_path / "audit" / "audit.jsonl", clock=lambda: 1000.0)
    for number in range(4):
        log.write("sent" if number % 2 else "refused", bytes=number)
    return tmp_path / "audit" / "audit.jsonl"


def test_entries_come_back_in_order(path):
    assert [entry["bytes"] for entry in verify_log(path)] == [0, 1, 2, 3]
    assert count_events(path) == {"sent": 2, "refused": 2}


def test_a_log_that_never_began_is_empty(tmp_path):
    assert verify_log(tmp_path / "audit.jsonl") == ()


@pytest.mark.parametrize("number", range(4))
def test_a_changed_or_missing_line_shows(path, number):
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (
        [*lines[:number], *lines[number + 1 :]],
        [*lines[:number], lines[number].replace(b'"bytes":', b'"bytes":9'), *lines[number + 1 :]],
        lines[:number],
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(TrustError, match="edited, cut or damaged"):
            verify_log(path)
    path.unlink()
    with pytest.raises(TrustError):
        verify_log(path)


def test_a_line_torn_by_a_crash_is_dropped_at_the_next_write(path):
    with path.open("ab") as file:
        file.write(b'{"entry":{"num')
    assert len(verify_log(path)) == 4
    AuditLog(path).write("sent", bytes=4)
    assert [entry["bytes"] for entry in verify_log(path)] == [0, 1, 2, 3, 4]


def test_nothing_is_written_to_a_broken_log(path):
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TrustError):
        AuditLog(path).write("sent", bytes=5)


def test_an_export_is_signed_by_the_site(path, tmp_path):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    target = tmp_path / "export.json"
    assert export_log(path, target, "charite", key) == get_log_digest(path)
    content = target.read_bytes()
    assert verify_export(content, key.public_key().public_bytes_raw()) == verify_log(path)
    with pytest.raises(TrustError):
        verify_export(content, other.public_key().public_bytes_raw())
    changed = json.loads(content)
    changed["entries"] = changed["entries"][1:]
    with pytest.raises(TrustError):
        verify_export(json.dumps(changed).encode(), key.public_key().public_bytes_raw())
