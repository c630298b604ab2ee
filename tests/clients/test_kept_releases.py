"""The same question in two exchanges with other survivors: the difference must not be one hospital's own numbers.

No lie is needed for it: a hospital may be late, or not in the cohort.
"""

import shutil

import numpy as np
import pytest

from fedhealth.errors import FederationError, SecureAggregationError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.privacy_target import load_target
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER
from fedhealth.site.recovery import recover_site
from tests.clients.hospitals import FOUR, VICTIM, Hospitals, Lead, four_hospitals_

__all__ = ["four_hospitals_"]

THREE = FOUR[:3]
PLAIN = ["privacy=none", "secagg=on"]
PRIVATE = ["privacy=patient", "privacy.epsilon=8", "privacy.min_cohort=2", "secagg=on"]
QUESTIONS = {
    "private statistics": (DESCRIBE, [*PRIVATE, "purpose=describe"], ""),
    "private final scores": (EVALUATE, PRIVATE, ""),
    "statistics": (DESCRIBE, [*PLAIN, "purpose=describe"], "units: [none]"),
    "an update": (TRAIN, PLAIN, "units: [none], word_embeddings: true"),
}
ASKED = {  # the first exchange, then the second: cohort, and whose answers are lost
    "late, then there": ((FOUR, (VICTIM,)), (FOUR, ())),
    "not in the cohort, then there": ((THREE, ()), (FOUR, ())),
    "there, then late": ((FOUR, ()), (FOUR, (VICTIM,))),
    "there, then not in the cohort": ((FOUR, ()), (THREE, ())),
}


def opens(lead, kind, cohort, dropped, known=None, **about):
    """Return whether a second sum opens; one with the known contributors tells nothing new."""
    try:
        lead.ask(kind, cohort, dropped, **about)
        return lead.open().sites != known
    except (SecureAggregationError, FederationError):
        return False


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        pytest.param("private statistics", "late, then there", marks=pytest.mark.long),
        ("private statistics", "there, then not in the cohort"),
        ("private final scores", "not in the cohort, then there"),
        pytest.param("private final scores", "there, then late", marks=pytest.mark.long),
        ("statistics", "late, then there"),
        pytest.param("statistics", "there, then not in the cohort", marks=pytest.mark.long),
        pytest.param("an update", "not in the cohort, then there", marks=pytest.mark.long),
        ("an update", "there, then late"),
    ],
)
def test_no_second_sum_with_other_contributors(four_hospitals, tmp_path, question, asked):
    kind, overrides, limits = QUESTIONS[question]
    lead = Lead(Hospitals(tmp_path, four_hospitals, limits), "run12345", *overrides).join()
    (cohort, dropped), second = ASKED[asked]
    lead.ask(kind, cohort, dropped)
    first = lead.open()
    assert any(values.any() for values in first.statistics.values())
    assert not lead.refusals
    assert not opens(lead, kind, *second, known=first.sites)
    assert lead.refusals
    lead.restart_hospitals()
    assert not opens(lead, kind, *second, known=first.sites, repetition=1)


@pytest.mark.parametrize(
    "question", ["private statistics", pytest.param("private final scores", marks=pytest.mark.long)]
)
def test_the_same_contributors_are_sent_the_same_values(four_hospitals, tmp_path, question):
    kind, overrides, limits = QUESTIONS[question]
    lead = Lead(Hospitals(tmp_path, four_hospitals, limits), "run12345", *overrides).join()
    lead.ask(kind, FOUR)
    first = lead.open()
    lead.ask(kind, FOUR)
    again = lead.open()
    assert {name: values.tolist() for name, values in first.statistics.items()} == {
        name: values.tolist() for name, values in again.statistics.items()
    }


@pytest.mark.parametrize("question", ["private statistics", "private final scores"])
def test_what_a_request_may_book_is_stored_when_the_run_joins(four_hospitals, tmp_path, question):
    """A recovery needs it: the first request may be on its way when the machine is lost."""
    kind, overrides, limits = QUESTIONS[question]
    lead = Lead(Hospitals(tmp_path, four_hospitals, limits), "run12345", *overrides).join()
    home = lead.hospitals.homes[VICTIM]
    target = load_target(home.state, lead.run)
    lead.ask(kind, FOUR)
    booked = [entry.event for entry in verify_ledger(get_ledger_path(home.state, "tiny-2026")) if entry.kind == "book"]
    assert len(booked) == 1
    assert booked[0] in target.release_events


def test_another_run_draws_and_books_anew(four_hospitals, tmp_path):
    kind, overrides, _ = QUESTIONS["private statistics"]
    hospitals, sums = Hospitals(tmp_path, four_hospitals), []
    for run, dropped in (("run12345", (VICTIM,)), ("run67890", ())):
        lead = Lead(hospitals, run, *overrides).join()
        lead.ask(kind, FOUR, dropped)
        sums.append(lead.open().statistics)
        assert not lead.refusals
    assert any(not np.array_equal(sums[0][name], sums[1][name]) for name in sums[0])


def test_the_contributors_hold_for_all_runs_without_privacy(four_hospitals, tmp_path):
    kind, overrides, limits = QUESTIONS["statistics"]
    hospitals = Hospitals(tmp_path, four_hospitals, limits)
    lead = Lead(hospitals, "run12345", *overrides).join()
    lead.ask(kind, FOUR, (VICTIM,))
    lead.open()
    other = Lead(hospitals, "run67890", *overrides).join()
    assert not opens(other, kind, FOUR, ())
    third = Lead(hospitals, "run00000", *overrides).join()
    assert opens(third, kind, THREE, ())
    for site in FOUR:
        hospitals.set_limits(site, f"{limits}, changing_cohorts: true")
    fourth = Lead(hospitals, "run11111", *overrides).join()
    assert opens(fourth, kind, FOUR, ())


def test_the_contributors_hold_for_the_data_set_wherever_its_files_are(four_hospitals, tmp_path):
    """The hospitals move their files, or list them in a second manifest, under the same name of the data set."""
    kind, overrides, limits = QUESTIONS["statistics"]
    data = tmp_path / "data"
    shutil.copytree(four_hospitals, data)
    hospitals = Hospitals(tmp_path, data, limits)
    lead = Lead(hospitals, "run12345", *overrides).join()
    lead.ask(kind, FOUR, (VICTIM,))
    lead.open()
    shutil.copytree(data, tmp_path / "moved")
    hospitals.data = tmp_path / "moved"
    for site in FOUR:
        hospitals.set_limits(site, limits)
    assert not opens(Lead(hospitals, "run67890", *overrides).join(), kind, FOUR, ())
    assert opens(Lead(hospitals, "run00000", *overrides).join(), kind, THREE, ())


def test_a_recovered_hospital_needs_a_persons_yes_for_a_sum_without_privacy(four_hospitals, tmp_path):
    """All are restored from a copy of before the first sum: none of them knows its contributors."""
    kind, overrides, limits = QUESTIONS["statistics"]
    hospitals = Hospitals(tmp_path, four_hospitals, limits)
    lead = Lead(hospitals, "run12345", *overrides).join()
    lead.ask(kind, FOUR, (VICTIM,))
    lead.open()
    for home in hospitals.homes.values():
        shutil.rmtree(home.state / CONTRIBUTORS_FOLDER, ignore_errors=True)  # the victim was asked for no shares
        recover_site(home)
    assert not opens(Lead(hospitals, "run67890", *overrides).join(), kind, FOUR, ())
    for site in FOUR:
        hospitals.set_limits(site, f"{limits}, changing_cohorts: true")
    assert opens(Lead(hospitals, "run00000", *overrides).join(), kind, FOUR, ())


def test_one_update_is_in_one_sum_whatever_the_lead_calls_it(four_hospitals, tmp_path):
    """The purpose, the round and the exchange of another name: none of it makes a new vector of an old one."""
    kind, overrides, limits = QUESTIONS["an update"]
    lead = Lead(Hospitals(tmp_path, four_hospitals, f"{limits}, changing_cohorts: true"), "run12345", *overrides).join()
    first = lead.ask(kind, FOUR, (VICTIM,)).repetition
    lead.open()
    for about in ({"repetition": first}, {"repetition": first, "number": 2}, {"repetition": lead.exchange + 5}):
        assert not opens(lead, kind, FOUR, (), **about)
