"""What the report says about the privacy that was spent."""

import json

import pytest

from fedhealth.export.model_card import build_model_card
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.booking import Booking
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path, get_target_path
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget
from fedhealth.report.notices import collect_notices
from fedhealth.report.privacy import build_privacy_section, describe_guarantee
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
    promise = "differential privacy (at most epsilon 3 at delta 1e-4 for each patient, noise multiplier 2)"
    assert f"trained with {promise}" in summarize_run(found).lower()
    assert "Not covered by epsilon" not in page  # nothing failed
    assert "spare round" not in page


def test_failed_and_retried_bookings_are_counted_with_their_bits(private):
    with Ledger.open(get_ledger_path(private / "sites" / "A", "chest")) as ledger:
        booked = [Booking(entry, (entry.round,)) for entry in ledger.entries]
        ledger.update_booking("retry", booked[1], 2)
        ledger.update_booking("fail", booked[1], 2)
    found = load_run_record(private)
    [spent] = found.spending
    assert (spent.booked_count, spent.failed_count, spent.retried_count, spent.declined_count) == (2, 1, 1, 0)
    shown = build_privacy_section(found)
    assert [cell.text for cell in shown.tables[0].rows[0][5:]] == ["2", "1", "0"]
    assert shown.tables[0].rows[0][6].note == "1 retried"
    [note] = [note for note in shown.notes if note.startswith("Not covered by epsilon")]
    assert "The 1\N{NO-BREAK SPACE}failure of A" in note
    assert "at most 2.0 bits" in note  # no failure, or one of three rounds


def test_spare_rounds_are_planned_and_spent(private):
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("unit: patient", "unit: patient, spare_rounds: 1"))
    found = load_run_record(private)
    shown = build_privacy_section(found)
    assert shown.tables[0].rows[0][5].note == "of 4 planned"
    assert "Planned, spare rounds included: epsilon 3 at delta 1e-4 for each patient" in "".join(shown.notes)
    assert f"; spent at most: epsilon {found.spending[0].epsilon:.3g} at delta 1e-4" in "".join(shown.notes)
    assert "spare round" in build_model_card(private)


def test_a_deployment_reports_its_promise_and_its_failures(run):
    """The ledgers stayed in the hospitals: the report has the configuration and what the lead saw."""
    run.make_private(epsilon=3.0)
    run.declare(data_are_local=False)
    run.config = run.config.replace("unit: patient", "unit: record, delta: 1.0e-6")
    run.failed = {("A", 2)}
    shown = build_privacy_section(load_run_record(run.write()))
    assert [cell.text for cell in shown.tables[0].rows[0]] == ["study", "3", "1e-6", "computed by each hospital"]
    assert len(shown.tables) == 1  # an earlier release's sites told nothing
    assert "can tell at most 2.0 bits" in "".join(shown.notes)
    assert "Exact numbers" not in render_run_report(run.folder)


def test_a_deployment_reports_what_each_hospital_said(run):
    run.make_private(epsilon=3.0)
    run.declare(data_are_local=False)
    run.events = run.default_events()
    for event in [each for each in run.events if each["event"] == "handshake"][:2]:
        event["privacy"] = {"epsilon": 2.98765, "delta": 1e-6, "noise_multiplier": 1.25}
    shown = build_privacy_section(load_run_record(run.write()))
    assert [[cell.text for cell in row] for row in shown.tables[1].rows] == [
        [site, "2.988", "1e-6", "1.25"] for site in run.sites[:2]
    ]
    assert "By the hospitals&#39; own plans" in render_run_report(run.folder)


def test_exact_numbers_of_a_rehearsal_are_marked_on_page_and_card(private, run):
    page, card = render_run_report(private), build_model_card(private)
    for section in ("federate", "quality", "hospitals"):
        assert (
            "Exact numbers, without noise" in page.partition(f'<section id="{section}"')[2].partition("</section>")[0]
        )
    assert "pooled test AUROC, without noise" in page
    assert "The members of a private consortium would not see them." in page.partition("A rehearsal")[2]
    assert card.count("Exact numbers, without noise") == 2  # the counts of hospitals, the metrics


def test_numbers_of_a_run_without_privacy_are_not_marked(run):
    assert "Exact numbers" not in render_run_report(run.write())
    assert "Exact numbers" not in build_model_card(run.folder)


def titles(folder):
    return {notice.title for notice in collect_notices(load_run_record(folder))}


def test_nothing_is_said_of_an_ordinary_budget(private):
    assert not [title for title in titles(private) if "psilon" in title or "budget" in title or "privacy" in title]


def test_a_large_epsilon_is_named(private, run):
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("epsilon: 3.0", "epsilon: 12.0"))
    assert "gives little protection" not in "".join(titles(private))  # what was spent counts, where it is known
    with Ledger.open(get_ledger_path(private / "sites" / "A", "chest")) as ledger:
        ledger.book("0a1b2c", 3, "patient", PrivacyEvent(0.5, 0.5, 10), EpsilonLimits(1e-4))
    assert [title for title in titles(private) if title.endswith("gives little protection")]


def test_a_large_epsilon_is_named_without_ledgers(run):
    run.make_private(epsilon=12.0)
    assert "Epsilon 12 at delta chosen by each hospital gives little protection" in titles(run.write())


@pytest.mark.parametrize(("life", "told"), [(0.6, True), (1.5, True), (1.7, False), ("null", False)])
def test_a_life_nearly_spent_is_named(private, life, told):
    [spent] = load_run_record(private).totals
    assert spent.epsilon == pytest.approx(1.28, abs=0.01)  # at the delta of the lifetime budget
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


def write_audit(folder, *failures):
    findings = [{"name": "noise", "passed": True, "detail": "1.00"}]
    findings += [{"name": name, "passed": False, "detail": "half of it"} for name in failures]
    bound = {"claimed": 3.0, "found": 1.1, "delta": 1e-6, "confidence": 0.95}
    site = {"site": "A", "passed": not failures, "success": 0.84, "findings": findings, "bounds": {"membership": bound}}
    (folder / "audit.json").write_text(json.dumps({"sites": [site]}))


def test_an_audit_has_its_section(private):
    assert "What the audit found" not in render_run_report(private)
    write_audit(private)
    page = render_run_report(private).replace("\N{NO-BREAK SPACE}", " ")
    assert "Every check of the private training passed at 1 hospital." in page
    assert "right in at most 84 % of the cases; a coin toss is right in 50 %" in page
    assert "membership: epsilon is at least 1.1 (95 %), claimed epsilon 3 at delta 1e-6" in page


def test_a_failed_audit_is_said_first(private):
    write_audit(private, "noise of the planned size")
    page = render_run_report(private)
    assert "The audit FAILED at A" in page
    assert "noise of the planned size (half of it)" in page


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
