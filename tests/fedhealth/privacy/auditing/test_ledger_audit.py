"""A ledger is audited after a run: whole, and one release for each booking."""

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.auditing.ledger_audit import audit_ledger, find_unbooked_digests

EVENT = PrivacyEvent(4.0, 0.1, 3)


def write_ledger(path, digests):
    with Ledger.open(path) as ledger:
        for number, digest in enumerate(digests, 1):
            ledger.book("run", number, "patient", EVENT, EpsilonLimits(1e-6))
            ledger.update_booking("release", find_bookings(ledger.entries, "run")[-1], number, digest=digest)


def test_a_right_ledger_passes_and_is_summed(tmp_path):
    write_ledger(tmp_path / "demo.jsonl", ["a1", "b2"])
    whole, paid = audit_ledger(tmp_path / "demo.jsonl", 1e-6)
    assert whole.passed
    assert "epsilon" in whole.detail
    assert paid.passed
    assert "2 bookings, 2 releases" in paid.detail


def test_words_that_two_bookings_pay_for_are_found(tmp_path):
    write_ledger(tmp_path / "demo.jsonl", ["a1", "a1"])
    assert [each.passed for each in audit_ledger(tmp_path / "demo.jsonl", 1e-6)] == [True, False]


def test_an_edited_ledger_is_found(tmp_path):
    write_ledger(tmp_path / "demo.jsonl", ["a1"])
    content = (tmp_path / "demo.jsonl").read_bytes()
    (tmp_path / "demo.jsonl").write_bytes(content.replace(b'"steps":3', b'"steps":1'))
    assert [each.passed for each in audit_ledger(tmp_path / "demo.jsonl", 1e-6)] == [False]


def test_what_left_without_a_booking_is_named(tmp_path):
    write_ledger(tmp_path / "demo.jsonl", ["a1", "b2"])
    entries = verify_ledger(tmp_path / "demo.jsonl")
    assert find_unbooked_digests(entries, ["a1", "a1", "b2"]) == []
    assert find_unbooked_digests(entries, ["a1", "c3"]) == ["c3"]
