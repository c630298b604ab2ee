"""Audit a privacy ledger after a run: it is whole, and what left matches what was booked, one to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry, compute_spent_epsilon
from fedhealth.privacy.auditing.release_checks import AuditFinding


def audit_ledger(ledger: Path, delta: float) -> list[AuditFinding]:
    """Return whether a ledger is whole, and whether every booking paid for one list of words."""
    name = "the ledger is whole and adds up"
    try:
        entries = verify_ledger(ledger)
    except PrivacyError as error:
        return [AuditFinding(name, False, error.problem)]
    runs = sorted({entry.run for entry in entries})
    each = ", ".join(f"{run}: {compute_spent_epsilon(entries, delta, run):.2f}" for run in runs)
    total = f"epsilon {compute_spent_epsilon(entries, delta):.2f} in all ({each}) at delta {delta:g}"
    return [AuditFinding(name, True, total), _check_payments(entries)]


def find_unbooked_digests(entries: Sequence[LedgerEntry], left: Collection[str]) -> list[str]:
    """Return the digests of releases that left a site, by its egress log, and that no booking paid for."""
    paid = {entry.digest for entry in entries if entry.kind == "release"}
    return sorted(set(left) - paid)


def _check_payments(entries: Sequence[LedgerEntry]) -> AuditFinding:
    booked = {entry.number for entry in entries if entry.kind == "book"}
    pairs = {(entry.booking, entry.digest) for entry in entries if entry.kind == "release"}
    words_per_booking = Counter(booking for booking, _ in pairs)
    bookings_per_words = Counter(digest for _, digest in pairs)
    right = {booking for booking, _ in pairs} <= booked and all(
        count == 1 for counts in (words_per_booking, bookings_per_words) for count in counts.values()
    )
    name = "every booking paid for one release, and every release for itself"
    return AuditFinding(name, right, f"{len(booked)} bookings, {len(bookings_per_words)} releases")
