"""What an event of another unit costs one patient."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event, pld
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.units import convert_to_patient

EVENT = PrivacyEvent(1.0, 0.1, 50)


def test_a_patients_event_stays_as_it_is():
    assert convert_to_patient(EVENT, "patient", 7) is EVENT


def test_k_studies_move_the_sum_k_times_and_are_drawn_more_often():
    found = convert_to_patient(EVENT, "record", 5)
    assert found.noise_multiplier == pytest.approx(0.2)
    assert found.sample_rate == pytest.approx(1 - 0.9**5)
    assert found.steps == 50
    same_rate = PrivacyEvent(0.2, 0.1, 50)  # the tempting shortcut understates
    assert compute_epsilon([found], 1e-6) > 1.5 * compute_epsilon([same_rate], 1e-6)


@pytest.mark.parametrize("records", [1, 2, 5])
@pytest.mark.parametrize("event", [PrivacyEvent(2.0, 0.05, 60), PrivacyEvent(4.0, 0.2, 15), PrivacyEvent(8.0, 1.0, 15)])
def test_the_conversion_is_never_below_an_independent_accountant(event, records):
    """A step that draws j of a patient's k studies is moved by j: exactly a mixture of Gaussians."""
    drawn = np.arange(records + 1)
    chances = [math.comb(records, j) * event.sample_rate**j * (1 - event.sample_rate) ** (records - j) for j in drawn]
    step = dp_event.MixtureOfGaussiansDpEvent(event.noise_multiplier, drawn.astype(float), np.array(chances))
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_event.SelfComposedDpEvent(step, event.steps))
    truth = accountant.get_epsilon(1e-6)
    assert compute_epsilon([convert_to_patient(event, "record", records)], 1e-6) >= truth * 0.999


def test_replacing_a_patient_moves_a_sites_update_twice():
    assert convert_to_patient(PrivacyEvent(4.0, 1.0, 3), "client", 1) == PrivacyEvent(2.0, 1.0, 3)


@given(st.floats(1e-9, 1.0), st.integers(1, 100))
def test_rates_stay_probabilities(rate, records):
    found = convert_to_patient(PrivacyEvent(1.0, rate, 1), "record", records)
    assert rate * 0.999999 <= found.sample_rate <= min(1.0, rate * records * 1.000001)


@pytest.mark.parametrize(("unit", "records"), [("hospital", 1), ("record", 0)])
def test_what_cannot_be_converted_is_refused(unit, records):
    with pytest.raises(PrivacyError, match="cannot be converted"):
        convert_to_patient(EVENT, unit, records)
