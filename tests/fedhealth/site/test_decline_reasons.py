"""Reasons come from a closed list; everything else is said in one fixed sentence."""

from hypothesis import given
from hypothesis import strategies as st

from fedhealth.site import decline_reasons
from fedhealth.site.decline_reasons import UNTOLD, say, told


def test_listed_reasons_are_told():
    assert told(decline_reasons.NO_SECAGG) == decline_reasons.NO_SECAGG
    assert told(say(decline_reasons.SUM, 2, 3)) == "sums over 2 sites are opened, this site asks for 3"
    assert told("the cohort is smaller than the policy's minimum of 20") != UNTOLD
    assert told("the run asks for sigma 0.1, below this site's minimum 0.3") != UNTOLD


def test_anything_else_stays():
    assert told("patient 4711 has a bad row") == UNTOLD
    assert told("the cohort is smaller than the policy's minimum of 20; patient 4711") == UNTOLD
    assert told(decline_reasons.NO_SECAGG + "\n") == UNTOLD


@given(st.text(max_size=80))
def test_what_is_said_is_always_told_and_never_free_text(text):
    said = say(decline_reasons.WORD, text)
    assert told(said) == said
    assert text in said or "..." in said
    assert told(text) in {text, UNTOLD}
