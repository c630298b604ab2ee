"""A restored ledger counts at least what both branches booked: the one that was lost, and the one since the restore."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.ledger_record import MAX_RUNS, build_ledger_record, dump_records, load_records
from fedhealth.privacy.accounting.ledger_recovery import IN_FLIGHT, LOST, USED_UP, LostCopy, recover_ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.utils.hash_chain import get_head_path, salvage_chain

LIMITS = EpsilonLimits(1e-6, lifetime_epsilon=20.0)
EVENT = PrivacyEvent(2.0, 0.1, 3)
PLANS = {
    "a model": PrivacyPlan("patient", 0.1, 3, 5, Clipping(1.0), 2.0, 100.0, 1e-6, 1, PrivacyEvent(4.0, 1.0, 1)),
    "statistics": PrivacyPlan("record", 1.0, 1, 1, Clipping(1.0), 3.0, 100.0, 1e-6, 4),
}


def book(path, runs):
    """Book one round of each run, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Ledger.open(path) as ledger:
        for run in runs:
            ledger.book(run, 1, "patient", EVENT, EpsilonLimits(1e-6))


def recover(path, *copies):
    """Recover from copies: the record of each, its statement, and the statements that it knew."""
    lost = [LostCopy(statement, frozenset(known), record) for record, statement, *known in copies]
    return recover_ledger(path.parent.parent, path.stem, lost, LIMITS)


def count_rounds(path):
    return Counter(
        entry.run for entry in verify_ledger(path) if entry.kind in SPENT_KINDS for _ in range(entry.event.steps // 3)
    )


def reload(record):
    """Return a record as a restored site reads it in a statement."""
    return load_records(dump_records([record]))[0]


def test_a_record_of_an_earlier_release_is_read_and_written_again_with_the_same_bytes():
    content = (
        b'[{"dataset":"ward","lines":2,"marks":[[1,"0a1b2c3d4e5f"],[2,"a0b1c2d3e4f5"]],"runs":[["a1","patient",1,'
        b'[[2.0,0.1,3,1]],2]],"has_all_runs":true,"releases":{"a1":["patient",1,[[2.0,0.1,3,1]]]},'
        b'"has_all_releases":true}]'
    )
    (record,) = load_records(content)
    assert record.runs[0].cost.events == record.releases["a1"].events == (EVENT,)
    assert dump_records([record]) == content


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ((b'"lines":2', b'"lines":"2"'), r"\[0\].lines: '2' is not a whole number"),
        ((b'"patient",1', b'"patient"'), r"\[0\].runs"),
        ((b'"dataset"', b'"data"'), r"\[0\].dataset: is missing; \[0\].data: there is no such key"),
    ],
)
def test_a_record_of_another_form_is_refused_with_all_faults(damage, fault, tmp_path):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["a1", "b2"])
    content = dump_records([build_ledger_record(path)])
    with pytest.raises(PrivacyError, match=fault):
        load_records(content.replace(*damage))


def copy_ledger(path, target):
    target.mkdir(exist_ok=True)
    for each in (path, get_head_path(path)):
        shutil.copy2(each, target / each.name)


def restore_ledger(path, source):
    for each in (path, get_head_path(path)):
        shutil.copy2(source / each.name, each)


@settings(max_examples=30, deadline=None)
@given(*[st.lists(st.sampled_from(["a1", "b2", "c3"]), max_size=5)] * 3, st.booleans())
def test_nothing_is_counted_too_little(before, lost, since, twice):
    with tempfile.TemporaryDirectory() as folder:
        path = get_ledger_path(Path(folder), "ward")
        book(path, before)
        copy_ledger(path, Path(folder) / "backup")
        book(path, lost)
        record = reload(build_ledger_record(path))
        restore_ledger(path, Path(folder) / "backup")
        book(path, since)
        truth = Counter(before) + Counter(lost) + Counter(since)
        for _ in range(1 + twice):
            recover(path, (record, "7"))
        found = count_rounds(path)
        in_flight = Counter({*before, *lost})  # of every run that may still have asked
        assert found == truth + in_flight  # as marks are dense here, nothing is counted twice either


@pytest.mark.parametrize("is_booked", [False, True])
@pytest.mark.parametrize("purpose", PLANS)
def test_whatever_one_more_request_may_book_counts_as_spent(tmp_path, purpose, is_booked):
    path, plan, budget = get_ledger_path(tmp_path, "ward"), PLANS[purpose], PrivacyBudget("ward", 1e3)
    place = AccountingContext("a1", "here", tmp_path, 1, plan.rounds)
    budget.check_run(plan, place)
    copy_ledger(path, tmp_path / "backup")
    if is_booked:
        with budget.open_ledger(tmp_path) as ledger:
            budget.book(ledger, plan, place, plan.round_event)
    record = reload(build_ledger_record(path))
    restore_ledger(path, tmp_path / "backup")
    for _ in range(2):
        recover(path, (record, "7"))
    entries = verify_ledger(path)
    found = [entry.event for entry in entries if entry.reason.startswith(IN_FLIGHT)]
    assert Counter(found) == Counter(plan.release_events)
    assert {(entry.unit, entry.max_records_per_patient) for entry in entries} == {
        (plan.unit, plan.max_records_per_patient)
    }
    assert len(entries) == len(found) + is_booked


def test_a_second_recovery_with_a_newer_statement_books_the_difference(tmp_path):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["a1"])
    copy_ledger(path, tmp_path / "backup")
    book(path, ["a1"])
    early = build_ledger_record(path)
    book(path, ["a1", "b2", "b2"])
    late = build_ledger_record(path)
    restore_ledger(path, tmp_path / "backup")
    recover(path, (early, "4"))
    assert count_rounds(path) == {"a1": 3}  # two, and one in flight
    recover(path, (late, "9", "4"))
    assert count_rounds(path) == {"a1": 4, "b2": 3}


def make_forks(path, before, forks, since):
    """Let the copies of a ledger go on, each from the same point; return their records."""
    book(path, before)
    copy_ledger(path, path.parent / "backup")
    records = []
    for lost in forks:
        book(path, lost)
        records.append(reload(build_ledger_record(path)))
        restore_ledger(path, path.parent / "backup")
    book(path, since)
    return records


@settings(max_examples=30, deadline=None)
@given(*[st.lists(st.sampled_from(["a1", "b2"]), max_size=4)] * 4, st.permutations([0, 1]), st.booleans())
def test_two_lost_copies_of_which_neither_knew_the_other_both_count(before, first, second, since, order, at_once):
    with tempfile.TemporaryDirectory() as folder:
        path = get_ledger_path(Path(folder), "ward")
        records = make_forks(path, before, [first, second], since)
        copies = [(records[number], f"fork {number}") for number in order]
        for known in [copies] if at_once else [copies[:1], copies[1:]]:
            recover(path, *known)
        truth = Counter(before) + Counter(first) + Counter(second) + Counter(since)
        in_flight = Counter({*before, *first}) + Counter({*before, *second})
        assert count_rounds(path) == truth + in_flight


def test_a_run_that_has_ended_has_no_request_on_its_way(tmp_path):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["a1", "b2", "c3"])
    record = build_ledger_record(path, ended={"a1"})
    assert set(record.releases) == {"b2", "c3"}
    recover(path, (record, "5"))
    assert count_rounds(path) == {"a1": 1, "b2": 2, "c3": 2}


def test_more_open_runs_than_a_record_lists_use_up_the_life_budget(tmp_path):
    """Each may have asked once more, and of some the record does not say what it may have booked."""
    path = get_ledger_path(tmp_path, "ward")
    runs = [f"run{number}" for number in range(MAX_RUNS + 1)]
    book(path, runs)
    assert recover(path, (build_ledger_record(path), "9")).is_used_up
    other = get_ledger_path(tmp_path / "other", "ward")
    book(other, runs)
    assert not recover(other, (build_ledger_record(other, ended=runs[:1]), "9")).is_used_up


def test_a_backup_that_is_older_than_the_record_uses_up_the_life_budget(tmp_path):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["first"])
    copy_ledger(path, tmp_path / "backup")
    book(path, [f"run{number}" for number in range(MAX_RUNS + 1)])
    record = build_ledger_record(path, ended=["first", "run0"])
    restore_ledger(path, tmp_path / "backup")
    for _ in range(2):
        assert recover(path, (record, "9")).is_used_up
    assert [entry.reason for entry in verify_ledger(path) if entry.kind == "lost"] == [USED_UP]
    with Ledger.open(path) as ledger:
        assert ledger.compute_spent_epsilon(1e-6) >= 20.0


def test_an_old_backup_of_many_runs_is_recognised_by_its_marks(tmp_path):
    """A hundred lines are lost, all of the last runs; what the two files share is not booked again."""
    path = get_ledger_path(tmp_path, "ward")
    book(path, [f"old{number}" for number in range(20)])
    copy_ledger(path, tmp_path / "backup")
    book(path, ["new1"] * 50 + ["new2"] * 50)
    record = build_ledger_record(path, ended=["new1", *(f"old{number}" for number in range(20))])
    restore_ledger(path, tmp_path / "backup")
    assert not recover(path, (record, "9")).is_used_up
    found = count_rounds(path)
    assert (found["new1"], found["new2"]) == (50, 51)
    assert all(found[f"old{number}"] == 1 for number in range(20))


@pytest.mark.parametrize("keep", range(4))
def test_a_cut_chain_keeps_its_sound_lines_and_a_copy(tmp_path, keep):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["a1", "b2", "a1"])
    record, whole = build_ledger_record(path), path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:keep]) + (b"junk\n" if keep == 3 else b""))
    found = recover(path, (record, "3"))
    reasons = [entry.reason.partition(" (")[0] for entry in verify_ledger(path) if entry.kind == "lost"]
    assert reasons == [LOST] * len({0: "ab", 1: "ab", 2: "a", 3: ""}[keep]) + [IN_FLIGHT] * 2
    assert count_rounds(path) == {"a1": 3, "b2": 2}
    assert found.damaged_copy is not None


def test_an_intact_chain_is_left_alone(tmp_path):
    path = get_ledger_path(tmp_path, "ward")
    book(path, ["a1"])
    before = {each: each.read_bytes() for each in path.parent.iterdir()}
    assert salvage_chain(path) is None
    assert salvage_chain(tmp_path / "none.jsonl") is None
    assert {each: each.read_bytes() for each in path.parent.iterdir()} == before
    for number in (1, 2):  # no copy replaces an earlier one
        book(path, ["a1"])
        path.write_bytes(b"")
        copy = salvage_chain(path)
        assert copy is not None
        assert copy.name == f"ward.jsonl.damaged-{number}"
