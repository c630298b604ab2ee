"""The ledger survives crashes, shows tampering, and declines what would exceed the budget."""

import json
import multiprocessing
import threading
from dataclasses import asdict

import pytest

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry, compute_spent_epsilon, parse_entry
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.utils.hash_chain import BrokenChainError

EVENT, FREE = PrivacyEvent(1.0, 0.1, 10), EpsilonLimits(1e-5)
COST = RunCost("patient", (EVENT,))


def fill(path, count=3, run="a"):
    with Ledger.open(path) as ledger:
        for i in range(count):
            ledger.book(run, i, "patient", EVENT, FREE)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site" / "derm.ledger"


def files(path):
    return {p: p.read_bytes() for p in (path, path.with_suffix(".head")) if p.exists()}


def restore(state, path):
    for p in (path, path.with_suffix(".head")):
        p.unlink(missing_ok=True)
    for p, content in state.items():
        p.write_bytes(content)


def test_a_crash_at_any_byte_leaves_a_ledger_that_opens_and_never_shows_less(path):
    fill(path, 2)
    before = files(path)
    fill(path, 1)
    after = files(path)
    head, whole, start = path.with_suffix(".head"), after[path], len(before[path])
    for end in [*range(start, len(whole), 11), len(whole) - 1, len(whole)]:
        for new_head in (False, True):
            if new_head and end < len(whole):
                continue  # the head is written after the line is on the disk
            restore({path: whole[:end], head: (after if new_head else before)[head]}, path)
            assert len(verify_ledger(path)) >= 2
            with Ledger.open(path) as ledger:
                assert len(ledger.entries) == (3 if end == len(whole) else 2)
                ledger.book("b", 9, "patient", EVENT, FREE)
            assert verify_ledger(path)[-1].run == "b"


def test_a_crash_while_the_ledger_begins_leaves_one_that_opens(path):
    fill(path, 0)
    path.unlink()  # the head was written, the ledger not yet
    assert fill(path, 1).exists()


@pytest.mark.parametrize("where", range(0, 700, 23))
def test_any_changed_byte_is_refused(path, where):
    content = bytearray(fill(path).read_bytes())
    where %= len(content)
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="edited, cut or damaged"):
        verify_ledger(path)
    with pytest.raises(PrivacyError, match="edited, cut or damaged"), Ledger.open(path):
        pass


@pytest.mark.parametrize("cut", ["last line", "middle of last line", "all", "file", "head"])
def test_truncation_is_refused(path, cut):
    lines = fill(path).read_bytes().splitlines(keepends=True)
    if cut in ("file", "head"):
        (path if cut == "file" else path.with_suffix(".head")).unlink()
    else:
        kept = {"last line": lines[:-1], "middle of last line": [*lines[:-1], lines[-1][:20]], "all": []}[cut]
        path.write_bytes(b"".join(kept))
    with pytest.raises(PrivacyError, match="edited, cut or damaged"), Ledger.open(path):
        pass


def test_entries_in_another_order_or_left_out_are_refused(path):
    lines = fill(path).read_bytes().splitlines(keepends=True)
    for kept in ([lines[1], lines[0], lines[2]], [lines[0], lines[2]], [lines[0], *lines]):
        path.write_bytes(b"".join(kept))
        with pytest.raises(PrivacyError, match="edited, cut or damaged"):
            verify_ledger(path)


def test_lines_appended_by_another_hand_are_refused(path, tmp_path):
    short = files(fill(path, 1))
    fill(path, 2)
    restore({**files(path), path.with_suffix(".head"): short[path.with_suffix(".head")]}, path)
    with pytest.raises(PrivacyError, match="3 entries, but the head file knows 1"):
        verify_ledger(path)


def _hold(path, ready, done):
    with Ledger.open(path):
        ready.set()
        done.wait(20)


def test_two_runs_at_once_on_one_data_set_are_refused(path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(PrivacyError, match="another run is using"), Ledger.open(path):
            pass
        assert verify_ledger(path) == ()
    finally:
        done.set()
        other.join()
    fill(path)


def test_a_failure_waits_for_the_lock_of_another_run(path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(20)
        threading.Timer(0.3, done.set).start()
        with Ledger.open(path, wait=20.0) as ledger:
            assert done.is_set()
            assert ledger.entries == ()
    finally:
        done.set()
        other.join()


def test_a_run_keeps_its_unit(path):
    fill(path, 1)
    with Ledger.open(path) as ledger, pytest.raises(PrivacyError, match="run a was booked for unit patient before"):
        ledger.book("a", 1, "record", EVENT, FREE)


def test_a_line_of_an_unknown_kind_is_refused():
    fields = asdict(LedgerEntry(1, 0.0, "book", "a", 1, "patient", EVENT))
    assert parse_entry(fields) == LedgerEntry(1, 0.0, "book", "a", 1, "patient", EVENT)
    for changed in ({"kind": "forget"}, {"cites": ["x"]}, {"unknown": 1}):
        with pytest.raises(BrokenChainError):
            parse_entry(fields | changed)


def test_a_round_over_the_budget_is_declined_and_nothing_is_spent(path):
    one = compute_spent_epsilon(verify_ledger(fill(path, 1)), 1e-5)
    budget = EpsilonLimits(1e-5, run_epsilon=1.4 * one, lifetime_epsilon=2.2 * one, lifetime_delta=1e-5)
    with Ledger.open(path) as ledger:
        while not ledger.find_exceeded_limit(COST, budget, "a"):
            ledger.book("a", 1, "patient", EVENT, budget)
        total = ledger.compute_spent_epsilon(1e-5)
        assert ledger.compute_spent_epsilon(1e-5, "a") <= budget.run_epsilon
        with pytest.raises(PrivacyError, match="of run a would exceed"):
            ledger.book("a", 2, "patient", EVENT, budget)
        assert ledger.entries[-1].kind == "decline"
        assert ledger.compute_spent_epsilon(1e-5) == total
        while not ledger.find_exceeded_limit(COST, budget, "b"):
            ledger.book("b", 1, "patient", EVENT, budget)
        assert "all runs on this data set" in ledger.find_exceeded_limit(
            RunCost("patient", (PrivacyEvent(0.5, 1.0, 1),)),
            EpsilonLimits(1e-5, lifetime_epsilon=budget.lifetime_epsilon),
            "c",
        )


def test_runs_with_other_noise_compose(path):
    with Ledger.open(path) as ledger:
        ledger.book("a", 1, "patient", EVENT, FREE)
        ledger.book("b", 1, "patient", PrivacyEvent(2.0, 0.05, 20), FREE)
        apart = ledger.compute_spent_epsilon(1e-5, "a"), ledger.compute_spent_epsilon(1e-5, "b")
        assert max(apart) < ledger.compute_spent_epsilon(1e-5) < sum(apart)


def test_a_clock_going_backwards_is_refused_and_nothing_is_lost(path):
    times = iter([1000.0, 990.0, 500.0, 1001.0])
    with Ledger.open(path, clock=lambda: next(times)) as ledger:
        ledger.book("a", 1, "patient", EVENT, FREE)
        assert ledger.book("a", 2, "patient", EVENT, FREE).time == 1000.0
        with pytest.raises(PrivacyError, match="clock is 500 s behind"):
            ledger.book("a", 3, "patient", EVENT, FREE)
        ledger.book("a", 3, "patient", EVENT, FREE)
    assert [e.round for e in verify_ledger(path)] == [1, 2, 3]


def test_it_is_booked_on_the_disk_before_book_returns(path):
    with Ledger.open(path) as ledger:
        ledger.book("a", 1, "patient", EVENT, FREE)
        line = json.loads(path.read_bytes())
        assert line["entry"]["event"] == {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 10, "shares": 1}
        assert path.with_suffix(".head").read_text() == f"1 {ledger.head}\n"


def test_there_is_nothing_to_verify_before_the_first_run(path):
    with pytest.raises(PrivacyError, match="there is no ledger"):
        verify_ledger(path)
