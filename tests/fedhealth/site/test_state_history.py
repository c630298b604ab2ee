"""The record in a statement: it fits, however many ledgers a site has, or the site says so before it signs."""

import os
import secrets
from contextlib import nullcontext

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.identity import load_identity, make_identity, save_roster
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting import ledger_record
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.secagg.protocol.statement import (
    NAME_BYTES,
    StateHeads,
    StateStatement,
    digest_statement,
    seal_record,
    unseal_record,
)
from fedhealth.site import state_history
from fedhealth.site.state_history import StateHistory, load_statement_book, parse_record
from fedhealth.utils.atomic_io import unsynced_files

SITE, RUN = "s" * 64, "f" * 64
KEY = Ed25519PrivateKey.generate()


def make_entries():
    """Return the entries of ten runs with ten rounds each; the runs and their noise differ."""
    runs = [(secrets.token_hex(16), 2 + secrets.randbelow(10**9) / 1e9) for _ in range(10)]
    return [
        LedgerEntry(10 * k + i + 1, 0.0, "book", run, i, "patient", PrivacyEvent(noise, 1.0, 15))
        for k, (run, noise) in enumerate(runs)
        for i in range(10)
    ]


@pytest.fixture(name="make_ledgers")
def make_ledgers_(tmp_path, monkeypatch):
    """Return a function that makes a site with some ledgers; their chains are not written, as that takes long."""

    def make(count):
        books = {get_ledger_path(tmp_path, f"study-{number:03d}"): make_entries() for number in range(count)}
        hashes = {path: [secrets.token_hex(32) for _ in entries] for path, entries in books.items()}
        monkeypatch.setattr(state_history, "find_ledgers", lambda folder: [("here", path) for path in books])
        monkeypatch.setattr(ledger_record, "verify_ledger", books.__getitem__)
        monkeypatch.setattr(ledger_record, "read_hashes", hashes.__getitem__)
        return StateHistory(tmp_path, None)

    return make


@pytest.mark.parametrize(("count", "runs"), [(1, 8), (12, 8), (20, 4), (50, 1)])
def test_the_record_of_many_ledgers_fits_a_statement(make_ledgers, count, runs):
    record = make_ledgers(count).build_record()
    sealed = seal_record(KEY, SITE, 2**63, record)
    heads = StateHeads((bytes(32),) * count)
    known = (bytes(NAME_BYTES),) * 64  # the most that a book lists
    data = StateStatement(SITE, 2**63, RUN, 2**63, heads, sealed, known).sign(KEY).to_bytes()
    found = parse_record(unseal_record(KEY, StateStatement.from_bytes(data, SITE)))
    assert len(found) == count
    assert all(len(each.runs) >= runs and not each.has_all_runs for each in found)


def test_too_many_ledgers_are_named_before_anything_is_signed(make_ledgers):
    with pytest.raises(PrivacyError, match="200 privacy ledgers do not fit"):
        make_ledgers(200).build_record()


def test_the_audit_log_tells_of_statements_also_where_it_is_damaged(tmp_path):
    """A torn line was never written, an edited one says nothing; the latest of the others counts."""
    history = StateHistory(tmp_path, tmp_path / "audit" / "audit.jsonl")
    assert history.find_last_logged() is None
    first, second = (StateStatement(SITE, n, RUN, 0, StateHeads(), b"").sign(KEY) for n in (1, 2))
    history.log_statement(first)
    history.log_statement(second)
    assert history.load_last_statement() == second.to_bytes()
    names = [digest_statement(each.to_bytes()).hex() for each in (first, second)]
    assert all(map(history.holds_statement, names))
    whole = history.audit.read_bytes()
    for damaged in (whole[:-5], whole.replace(b'"counter":2', b'"counter":two')):
        history.audit.write_bytes(damaged)
        assert history.find_last_counter() == 1
        assert [history.holds_statement(name) for name in names] == [True, False]
    history.audit.with_name("last-statement").write_bytes(second.to_bytes()[:-1])
    assert history.load_last_statement() == b""


@pytest.mark.parametrize("is_virtual", [True, False])
def test_the_book_of_a_hospital_alone_survives_a_power_cut(tmp_path, monkeypatch, is_virtual):
    make_identity(tmp_path)
    identity = load_identity(tmp_path)
    save_roster(tmp_path, {"north": identity.public_key().public_bytes_raw()})
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    audit = None if is_virtual else tmp_path / "audit.jsonl"
    with unsynced_files() if is_virtual else nullcontext():  # as around the handling of a message
        book = load_statement_book("north", tmp_path, audit, identity, create=True)
        book.issue_statement("run-1", 1)
    assert bool(synced) != is_virtual
