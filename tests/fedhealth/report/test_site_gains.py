"""The verdict per hospital: who loses is named, and what personalization would give."""

import pytest

from fedhealth.report.heterogeneity import check_losing_sites
from fedhealth.report.notices import collect_notices
from fedhealth.report.render import render_run_report
from fedhealth.report.site_gains import build_site_gains_section, describe_sites, list_losers, summarize_losers
from fedhealth.runs.load_record import load_run_record
from tests.fedhealth.run_writer import interval


def site_row(site, alone, shared, width=0.02, tuned=None):
    """Return what comparison.json holds of one hospital."""
    gain = None if shared is None else round(shared - alone, 6)
    row = {"site": site, "alone": interval(alone), "shared": interval(shared), "shared_gain": interval(gain, width)}
    if tuned is None:
        return row
    return row | {"tuned": interval(tuned), "tuned_gain": interval(round(tuned - alone, 6), width)}


@pytest.fixture(name="record")
def record_(run):
    """`record(*rows)`: the record of a run with a mean gain and these hospitals."""

    def make(*rows):
        run.comparison = run.compared({"alone A": 0.05, "alone, on average": 0.05}) | {"sites": list(rows)}
        return load_run_record(run.write())

    return make


def test_a_run_that_gains_on_average_names_who_loses(record, run):
    found = record(site_row("A", 0.82, 0.707, tuned=0.83), site_row("D$x$", 0.7, 0.8, tuned=0.81))
    notice = next(each for each in collect_notices(found) if each.title == "A loses by the shared model")
    assert notice.serious
    assert "get 0.707 instead of 0.820 alone (−0.113" in notice.text
    assert "reaches 0.830: set personalization=finetune" in notice.text
    page = render_run_report(run.write())
    assert "Yes. Federated training" not in page
    assert "Partly. Federated training gains" in page
    assert "Not for every hospital: alone is better for A (−0.113)." in page
    [advice] = check_losing_sites(found, [])  # instead of "nothing here suggests that one shared model is unsuitable"
    assert "try personalization=finetune" in advice


def test_a_run_in_which_all_gain_says_yes(record, run):
    record(site_row("A", 0.7, 0.8), site_row("D$x$", 0.7, 0.8))
    page = render_run_report(run.write())
    assert "Yes. Federated training gains" in page
    assert "Not for every hospital" not in page
    assert "A and D$x$ gain." in page
    assert list(check_losing_sites(load_run_record(run.folder), [])) == []


@pytest.mark.parametrize(
    ("tuned", "advice"),
    [
        (0.83, "set personalization=finetune"),
        (0.78, "still less than alone: try personalization=ditto"),
        (0.70, "served best by its own model"),
        (None, "has personal models already"),
    ],
)
def test_the_advice_follows_what_a_personal_copy_reaches(record, tuned, advice):
    found = record(site_row("A", 0.82, 0.707, tuned=tuned))
    assert any(advice in each.text for each in collect_notices(found) if each.title.startswith("A loses"))


def test_a_loss_that_may_be_chance_is_named_with_that_word(record):
    found = record(site_row("A", 0.82, 0.80, width=0.1), site_row("B", 0.8, 0.81, width=0.1), site_row("C", 0.8, None))
    sites = found.comparison.sites
    assert [each.site for each in list_losers(sites)] == ["A"]
    assert summarize_losers(sites) == "Not for every hospital: alone is better for A (−0.020, may be chance)."
    said = describe_sites(sites)
    assert "no clear difference for B" in said
    assert "Nothing can be said about C" in said
    assert any(each.title == "A may lose by the shared model" and each.serious for each in collect_notices(found))


def test_a_gain_over_a_model_that_learned_nothing_is_a_warning(record):
    found = record(site_row("A", 0.51, 0.8), site_row("B", 0.7, 0.8), site_row("C", 0.347, 0.86))
    title = "A hospital's own model is no better than chance"
    notice = next(each for each in collect_notices(found) if each.title == title)
    assert notice.serious
    assert "Alone, A (0.510) and C (0.347) are no better than chance" in notice.text
    said = describe_sites(found.comparison.sites)
    assert said.startswith("B gains. A and C gain only over guessing: no gain is shown there.")
    assert notice.text in said
    (table,) = build_site_gains_section(found).tables
    assert [row[0].note for row in table.rows] == ["gains only over guessing", "gains", "gains only over guessing"]
    assert not [each for each in collect_notices(record(site_row("B", 0.7, 0.8))) if each.title == title]
