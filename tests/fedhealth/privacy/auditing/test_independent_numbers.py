"""The audit's own numbers agree with the product's where that is right."""

import numpy as np
import pytest

from fedhealth.privacy.accounting.accountant import PrivacyEvent, calibrate_noise_multiplier, compute_advantage
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, bucket_count, make_plan
from fedhealth.privacy.auditing.independent_numbers import (
    check_plan,
    clip_gradient,
    compute_expected_batch,
    compute_sample_rate,
    is_within_target,
)
from fedhealth.privacy.mechanisms.clipping import Clipping


def test_rate_and_batch_are_those_of_the_bucketed_cohort():
    for units in (2, 13, 40, 500):
        assert compute_sample_rate(units, 8) == min(1.0, 8 / bucket_count(units))
        assert compute_expected_batch(units, 0.25) == max(1.0, 0.25 * bucket_count(units))


@pytest.mark.parametrize(("rate", "steps"), [(0.2, 60), (1.0, 10)])
def test_another_accountant_confirms_a_calibration_and_refuses_less_noise(rate, steps):
    noise = calibrate_noise_multiplier(3.0, 1e-6, rate, steps)
    assert is_within_target([(noise, rate, steps)], 3.0, 1e-6)
    assert not is_within_target([(0.97 * noise, rate, steps)], 3.0, 1e-6)


def test_a_plan_with_other_steps_is_found():
    plan = make_plan(PrivacyRequest("patient", 3.0, 0.25, 5, 4, Clipping(1.0), spare_rounds=1), PlanConstraints(), 40)
    assert [each.p_value for each in check_plan(plan, 3.0, 1e-6, 0.25, 25)] == [1.0, 1.0]
    assert [each.p_value for each in check_plan(plan, 3.0, 1e-6, 0.25, 50)] == [0.0, 0.0]


def test_clipping_is_that_of_the_configuration():
    gradient = {"towers.text.a": np.array([3.0, 4.0]), "head.b": np.array([12.0])}
    flat = clip_gradient(gradient, "flat", 1.0, [])
    assert sum(float(part @ part) for part in flat.values()) == pytest.approx(1.0)
    assert clip_gradient(gradient, "flat", 100.0, [])["head.b"] == pytest.approx([12.0])
    assert clip_gradient(gradient, "automatic", 1.0, [])["head.b"] == pytest.approx([12 / 13.01])
    tower = clip_gradient(gradient, "tower", 1.0, ["text"])
    assert [float(np.linalg.norm(part)) for part in tower.values()] == pytest.approx([0.5**0.5] * 2)


def test_the_advantage_of_an_attacker():
    assert compute_advantage([]) == 0.0
    assert compute_advantage([PrivacyEvent(1.0, 1.0, 1)]) == pytest.approx(0.3829, abs=1e-4)  # 2 Phi(1/2) - 1
    sampled = compute_advantage([PrivacyEvent(1.0, 0.1, 1)])
    assert sampled == pytest.approx(0.03829, rel=0.01)  # a tenth of it
    assert sampled < compute_advantage([PrivacyEvent(1.0, 0.1, 20)]) < compute_advantage([PrivacyEvent(1.0, 0.5, 20)])
