"""What the report says about the privacy that was spent."""

import json

import pytest

from fedhealth.privacy.accounting.accountant import Event
from fedhealth.privacy.accounting.ledger import Budget, Ledger
from fedhealth.privacy.accounting.spending import Promise, ledger_path, promise_path
from fedhealth.report.notices import notices
from fedhealth.report.privacy import promise
from fedhealth.report.quality import learning
from fedhealth.report.render import render
from fedhealth.report.summary import summary
from fedhealth.runs.load_record import collect

PLAIN = "privacy: {_target_: fedhealth.training.trainer.PlainTrainer}"
PRIVATE = "privacy: {_target_: fedhealth.training.dpsgd_trainer.PatientTrainer, epsilon: 3.0, unit: patient}"


@pytest.fixture
def private(run):
    """A finished private run with one site's ledger."""
    run.config = run.config.replace(PLAIN, PRIVATE)
    folder = run.write()
    site = folder / "sites" / "A"
    with Ledger.open(ledger_path(site, "chest")) as ledger:
        for number in (1, 2):
            ledger.reserve("0a1b2c", number, "patient", Event(2.0, 0.1, 10), Budget(1e-4))
    made = Promise("0a1b2c", "patient", 3.0, 1e-4, 2.0, 2)
    promise_path(site, "0a1b2c").write_text(json.dumps(vars(made)))
    return folder


def test_the_section_shows_what_is_spent_and_allowed(private):
    found = collect(private)
    [spent] = found.spending
    assert (spent.site, spent.target, spent.delta) == ("A", 3.0, 1e-4)
    page = render(private)
    assert "Privacy spent" in page
    assert f"{spent.epsilon:.3f}" in page
    assert "No differential privacy" not in page
    assert "trained with differential privacy for each patient (epsilon at most 3)" in summary(found).lower()


def titles(folder):
    return {notice.title for notice in notices(collect(folder))}


def test_nothing_is_said_of_an_ordinary_budget(private):
    assert not [title for title in titles(private) if "psilon" in title or "budget" in title or "privacy" in title]


def test_a_large_epsilon_is_named(private, run):
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("epsilon: 3.0", "epsilon: 12.0"))
    assert "Epsilon 12 promises little" not in titles(private)  # what was spent counts, where it is known
    with Ledger.open(ledger_path(private / "sites" / "A", "chest")) as ledger:
        ledger.reserve("0a1b2c", 3, "patient", Event(0.5, 0.5, 10), Budget(1e-4))
    assert [title for title in titles(private) if title.endswith("promises little")]


def test_a_large_epsilon_is_named_without_ledgers(run):
    run.config = run.config.replace(PLAIN, PRIVATE.replace("3.0", "12.0"))
    assert "Epsilon 12 promises little" in titles(run.write())


@pytest.mark.parametrize(("life", "told"), [(0.6, True), (1.05, True), (1.2, False), ("null", False)])
def test_a_life_nearly_spent_is_named(private, life, told):
    [spent] = collect(private).totals
    assert spent.epsilon == pytest.approx(0.87, abs=0.01)
    config = (private / "config.yaml").read_text()
    (private / "config.yaml").write_text(config.replace("unit: patient", f"unit: patient, life_epsilon: {life}"))
    assert ("A has little privacy budget left" in titles(private)) is told


@pytest.mark.parametrize("state", ["completed", "failed", "stopped"])
def test_a_run_that_is_to_go_on_and_has_spent_its_budget_is_named(private, run, state):
    promise_path(private / "sites" / "A", "0a1b2c").write_text(
        json.dumps(vars(Promise("0a1b2c", "patient", 1.0, 1e-4, 2.0, 3)))
    )
    (private / "run.json").write_text(json.dumps(run.about | {"state": state}))
    assert ("A can hardly go on with this run" in titles(private)) is (state != "completed")


def test_an_audit_is_quoted(private):
    line = "A: canaries: claimed epsilon 3, empirical lower bound 1.1 (95 %)"
    (private / "audit.json").write_text(json.dumps({"lines": [line]}))
    assert line in render(private)


def test_without_ledgers_there_is_no_section_and_no_promise(run):
    found = collect(run.write())
    assert found.spending == ()
    assert "Privacy spent" not in render(run.folder)
    assert promise(found) == "differential privacy"


def test_without_scores_of_rounds_the_learning_curve_is_a_sentence(run):
    """Private training tells of the final model only: one point is no curve."""
    run.config = run.config.replace(PLAIN, PRIVATE)
    run.events = [
        {**event, "pooled": {}, "own": None} if event["event"] in ("round_completed", "site_answered") else event
        for event in run.default_events()
    ]
    shown = learning(collect(run.write()))
    assert shown.charts == ()
    assert shown.lead.startswith("The final model's pooled validation AUROC is")
    assert "would have cost privacy" in shown.notes[0]
