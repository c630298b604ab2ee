"""Reasons come from a closed list; everything else is said in one fixed sentence."""

from hypothesis import given
from hypothesis import strategies as st

from fedhealth.site import decline_reasons
from fedhealth.site.decline_reasons import UNLISTED_REASON, format_reason, redact_reason


def test_listed_reasons_are_told():
    assert redact_reason(decline_reasons.SECURE_AGGREGATION_REQUIRED) == decline_reasons.SECURE_AGGREGATION_REQUIRED
    assert (
        redact_reason(format_reason(decline_reasons.TOO_FEW_SITES_IN_SUM, 2, 3))
        == "the run opens sums of 2 sites, this site requires 3"
    )
    assert redact_reason("the cohort is smaller than the policy's minimum of 20") != UNLISTED_REASON
    assert redact_reason("the run asks for noise multiplier 0.1, below this site's minimum 0.3") != UNLISTED_REASON


def test_anything_else_stays():
    assert redact_reason("patient 4711 has a bad row") == UNLISTED_REASON
    assert redact_reason("the cohort is smaller than the policy's minimum of 20; patient 4711") == UNLISTED_REASON
    assert redact_reason(decline_reasons.SECURE_AGGREGATION_REQUIRED + "\n") == UNLISTED_REASON


@given(st.text(max_size=80))
def test_what_is_said_is_always_told_and_never_free_text(text):
    said = format_reason(decline_reasons.OVERRIDE_NOT_ACCEPTED, text)
    assert redact_reason(said) == said
    assert text in said or "..." in said
    assert redact_reason(text) in {text, UNLISTED_REASON}
