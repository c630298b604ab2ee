import math

import pytest

from fedhealth.utils.privacy_text import format_delta, format_epsilon, format_guarantee, format_unit


@pytest.mark.parametrize(("delta", "text"), [(1e-6, "1e-6"), (1e-10, "1e-10"), (0.0045, "4.5e-3"), (2.5e-5, "2.5e-5")])
def test_delta_is_short(delta, text):
    assert format_delta(delta) == text


def test_a_guarantee_is_one_sentence():
    text = "epsilon 7.98 at delta 1e-6 for each patient, noise multiplier 2.53"
    assert format_guarantee(7.979, 1e-6, 2.5311, "patient") == text
    assert format_epsilon(7.979, 1e-6, digits=4) == "epsilon 7.979 at delta 1e-6"


def test_what_the_lead_does_not_know_is_said():
    text = "epsilon 8 at delta chosen by each hospital for each study, noise multiplier computed by each hospital"
    assert format_guarantee(8.0, math.nan, math.nan, "record") == text


def test_units_have_the_names_of_hospitals():
    assert [format_unit(unit) for unit in ("patient", "record", "client")] == ["patient", "study", "hospital"]
