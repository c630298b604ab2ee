"""A site's whole update, clipped and noised."""

import pytest
import torch

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.engines.client_level import clip_and_noise_update
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource


def plan(unit="client", noise_multiplier=None):
    return make_plan(
        PrivacyRequest(unit, 8.0, 0.1, 5, 3, Clipping(2.0), noise_multiplier=noise_multiplier, delta=1e-5),
        PlanConstraints(),
        100,
    )


class Silent(NoiseSource):
    def add_(self, total, std):
        return total


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_update_is_clipped_as_a_whole(scale):
    update = {"a": torch.randn(40) * scale, "b": torch.randn(3, 4, dtype=torch.float64) * scale}
    found = clip_and_noise_update(update, plan(), Silent())
    norm = sum(v.double().square().sum() for v in found.values()) ** 0.5
    whole = sum(v.double().square().sum() for v in update.values()) ** 0.5
    assert float(norm) == pytest.approx(min(2.0, float(whole)), rel=1e-5)
    assert torch.allclose(found["a"] / found["a"].norm(), update["a"] / update["a"].norm(), atol=1e-5)


def test_noise_is_on_every_value_and_the_update_is_left_as_it_was():
    update = {"a": torch.zeros(50_000)}
    found = clip_and_noise_update(update, plan(), NoiseSource())["a"]
    assert float(found.std()) == pytest.approx(plan().noise_std, rel=0.03)
    assert not update["a"].any()


def test_refusals():
    with pytest.raises(PrivacyError, match="protects each patient"):
        clip_and_noise_update({"a": torch.zeros(2)}, plan("patient"), NoiseSource())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e200])
def test_an_update_that_is_not_finite_counts_as_zero(value):
    """An error would tell that the training of this site diverged, which has no noise."""
    update = {"a": torch.ones(3), "b": torch.tensor([0.5, value], dtype=torch.float64)}
    found = clip_and_noise_update(update, plan(), Silent())
    assert all(not value.any() for value in found.values())
    noised = clip_and_noise_update(update, plan(), NoiseSource())
    assert all(bool(value.isfinite().all()) for value in noised.values())
