"""What the report says about the privacy that was spent."""

import json

import pytest

from fedhealth.privacy.accountant import Event
from fedhealth.privacy.ledger import Budget, Ledger
from fedhealth.privacy.spending import Promise, ledger_path, promise_path
from fedhealth.report.collect import collect
from fedhealth.report.privacy import promise
from fedhealth.report.render import render
from fedhealth.report.summary import summary

PRIVATE = "privacy: {_target_: fedhealth.training.private.PatientTrainer, epsilon: 3.0, unit: patient}"


@pytest.fixture
def private(run):
    """A finished private run with one site's ledger."""
    run.config = run.config.replace("privacy: {_target_: fedhealth.training.loop.PlainTrainer}", PRIVATE)
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


def test_an_audit_is_quoted(private):
    line = "A: canaries: claimed epsilon 3, empirical lower bound 1.1 (95 %)"
    (private / "audit.json").write_text(json.dumps({"lines": [line]}))
    assert line in render(private)


def test_without_ledgers_there_is_no_section_and_no_promise(run):
    found = collect(run.write())
    assert found.spending == ()
    assert "Privacy spent" not in render(run.folder)
    assert promise(found) == "differential privacy"
