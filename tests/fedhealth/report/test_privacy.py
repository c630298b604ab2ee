"""What the report says about the privacy that was spent."""

import json

import pytest

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import EpsilonLimits, Ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path, get_target_path
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget
from fedhealth.report.notices import collect_notices
from fedhealth.report.privacy import describe_guarantee
from fedhealth.report.quality import build_learning_section
from fedhealth.report.render import render_run_report
from fedhealth.report.summary import summarize_run
from fedhealth.runs.load_record import load_run_record


@pytest.fixture
def private(run):
    """A finished private run with one site's ledger."""
    run.make_private(epsilon=3.0)
    folder = run.write()
    site = folder / "sites" / "A"
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        for number in (1, 2):
            ledger.book("0a1b2c", number, "patient", PrivacyEvent(2.0, 0.1, 10), EpsilonLimits(1e-4))
    made = PrivacyTarget("0a1b2c", "patient", 3.0, 1e-4, 2.0, 2)
    get_target_path(site, "0a1b2c").write_text(json.dumps(vars(made)))
    return folder


def test_the_section_shows_what_is_spent_and_allowed(private):
    found = load_run_record(private)
    [spent] = found.spending
    assert (spent.site, spent.target, spent.delta) == ("A", 3.0, 1e-4)
    page = render_run_report(private)
    assert "Privacy spent" in page
    assert f"{spent.epsilon:.3f}" in page
    assert "No differential privacy" not in page
    assert "trained with differential privacy for each patient (epsilon at most 3)" in summarize_run(found).lower()


def titles(folder):
    return {notice.title for notice in collect_notices(load_run_record(folder))}


def test_nothing_is_said_of_an_ordinary_budget(private):
    assert not [title for title in titles(private) if "psilon" in title or "budget" in title or "privacy" in title]


def test_a_large_epsilon_is_named(private, run):
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("epsilon: 3.0", "epsilon: 12.0"))
    assert "Epsilon 12 gives little protection" not in titles(private)  # what was spent counts, where it is known
    with Ledger.open(get_ledger_path(private / "sites" / "A", "chest")) as ledger:
        ledger.book("0a1b2c", 3, "patient", PrivacyEvent(0.5, 0.5, 10), EpsilonLimits(1e-4))
    assert [title for title in titles(private) if title.endswith("gives little protection")]


def test_a_large_epsilon_is_named_without_ledgers(run):
    run.make_private(epsilon=12.0)
    assert "Epsilon 12 gives little protection" in titles(run.write())


@pytest.mark.parametrize(("life", "told"), [(0.6, True), (1.05, True), (1.2, False), ("null", False)])
def test_a_life_nearly_spent_is_named(private, life, told):
    [spent] = load_run_record(private).totals
    assert spent.epsilon == pytest.approx(0.87, abs=0.01)
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("unit: patient", f"unit: patient, lifetime_epsilon: {life}"))
    assert ("A has little privacy budget left" in titles(private)) is told


@pytest.mark.parametrize("state", ["completed", "failed", "stopped"])
def test_a_run_that_is_to_go_on_and_has_spent_its_budget_is_named(private, run, state):
    get_target_path(private / "sites" / "A", "0a1b2c").write_text(
        json.dumps(vars(PrivacyTarget("0a1b2c", "patient", 1.0, 1e-4, 2.0, 3)))
    )
    (private / "run.json").write_text(json.dumps(run.info | {"state": state}))
    assert ("A has little budget left for this run" in titles(private)) is (state != "completed")


def test_an_audit_is_quoted(private):
    line = "A: canaries: claimed epsilon 3, empirical lower bound 1.1 (95 %)"
    (private / "audit.json").write_text(json.dumps({"lines": [line]}))
    assert line in render_run_report(private)


def test_without_ledgers_there_is_no_section_and_no_promise(run):
    found = load_run_record(run.write())
    assert found.spending == ()
    assert "Privacy spent" not in render_run_report(run.folder)
    assert describe_guarantee(found) == "differential privacy"


def test_without_scores_of_rounds_the_learning_curve_is_a_sentence(run):
    """Private training tells of the final model only: one point is no curve."""
    run.make_private(epsilon=3.0)
    run.events = [
        {**event, "pooled": {}, "own": None} if event["event"] in ("round_completed", "site_answered") else event
        for event in run.default_events()
    ]
    shown = build_learning_section(load_run_record(run.write()))
    assert shown.charts == ()
    assert shown.lead.startswith("The final model's pooled validation AUROC is")
    assert "would have spent privacy budget" in shown.notes[0]
