"""What the report says of how hospitals differ."""

import math
from dataclasses import replace

import pytest

from fedhealth.report.heterogeneity import (
    RULES,
    build_heterogeneity_section,
    check_update_divergence,
    compute_spreads,
)
from fedhealth.report.svg import use_house_style
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import SiteBinCounts

EDGES = (0.001, 0.01, 0.1, 0.5)


def bins(*counts, rows=("ill",), edges=EDGES):
    return SiteBinCounts(rows, edges, counts)


def advice(run, profile):
    found = load_run_record(run.write())
    return " ".join(line for rule in RULES for line in rule(found, compute_spreads(profile)))


def test_a_spread_names_the_ends_of_the_occupied_bins():
    [spread] = compute_spreads({"prevalence": bins((0, 1, 0, 0, 2))})
    assert (spread.low, spread.high, spread.sites) == ((0.001, 0.01), (0.5, math.inf), 3)
    assert spread.fold == pytest.approx(50)
    assert compute_spreads({"prevalence": bins((0, 0, 0, 0, 0))}) == []


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"prevalence": bins((0, 1, 0, 0, 2))}, "at least 50-fold between hospitals: try personalization=fedbn"),
        ({"coverage": bins((1, 0, 0, 0, 2), rows=("text",))}, "has no text data"),
        ({"tabular": bins((1, 0, 1), rows=("crp",), edges=(-0.5, 0.75))}, "crp differ by more"),
        ({"image": bins((1, 0, 1), rows=("mean",), edges=(50.0, 100.0))}, "twice as bright"),
    ],
)
def test_each_difference_has_its_advice(run, profile, message):
    assert message in advice(run, profile)


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
    with use_house_style():
        assert build_heterogeneity_section(load_run_record(run.write())) is None


@pytest.mark.parametrize(("sends", "is_advised"), [("update", True), ("gradient", False)])
def test_client_drift_is_found_in_updates_and_never_in_gradients(run, sends, is_advised):
    found = load_run_record(run.write())
    config = {**found.config, "training": {"sends": sends}}
    rounds = tuple(replace(each, divergence=float(len(each.replies))) for each in found.rounds)
    lines = list(check_update_divergence(replace(found, config=config, rounds=rounds), ()))
    assert any("different directions" in line for line in lines) == is_advised


def test_with_gradients_layers_can_stay_at_the_hospitals_after_another_method(run):
    found = load_run_record(run.write())
    found = replace(found, config={**found.config, "training": {"sends": "gradient"}})
    spreads = compute_spreads({"prevalence": bins((0, 1, 0, 0, 2))})
    lines = " ".join(line for rule in RULES for line in rule(found, spreads))
    assert "try method=fedavg personalization=fedbn or personalization=ditto" in lines
