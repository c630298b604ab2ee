"""What the report says of how hospitals differ."""

import math

import pytest

from fedhealth.report.heterogeneity import RULES, heterogeneity, spreads
from fedhealth.report.svg import house_style
from fedhealth.runs.load_record import collect
from fedhealth.runs.record import Bins

EDGES = (0.001, 0.01, 0.1, 0.5)


def bins(*counts, rows=("ill",), edges=EDGES):
    return Bins(rows, edges, counts)


def advice(run, profile):
    found = collect(run.write())
    return " ".join(line for rule in RULES for line in rule(found, spreads(profile)))


def test_a_spread_names_the_ends_of_the_occupied_bins():
    [spread] = spreads({"prevalence": bins((0, 1, 0, 0, 2))})
    assert (spread.low, spread.high, spread.sites) == ((0.001, 0.01), (0.5, math.inf), 3)
    assert spread.fold == pytest.approx(50)
    assert spreads({"prevalence": bins((0, 0, 0, 0, 0))}) == []


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"prevalence": bins((0, 1, 0, 0, 2))}, "at least 50-fold between hospitals: try personalization=fedbn"),
        ({"coverage": bins((1, 0, 0, 0, 2), rows=("text",))}, "has no text data"),
        ({"tabular": bins((1, 0, 1), rows=("crp",), edges=(-0.5, 0.75))}, "crp differ by more"),
        ({"image": bins((1, 0, 1), rows=("mean",), edges=(50.0, 100.0))}, "twice as bright"),
    ],
)
def test_each_difference_has_its_advice(run, profile, words):
    assert words in advice(run, profile)


@pytest.mark.parametrize(
    "profile",
    [
        {"prevalence": bins((0, 0, 1, 2, 0))},
        {"coverage": bins((3, 0, 0, 0, 0), rows=("text",))},  # nobody has notes: no difference
        {"tabular": bins((1, 2, 0), rows=("crp",), edges=(-0.5, 0.75))},
    ],
)
def test_small_differences_have_none(run, profile):
    assert advice(run, profile) == ""


def test_without_anything_known_there_is_no_section(run):
    with house_style():
        assert heterogeneity(collect(run.write())) is None
