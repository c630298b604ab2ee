"""Protecting a whole site: its update is clipped and noised at the site before it is masked and sent.

The unit is the client: whoever sees the model learns little about whether this hospital took part at all.
Noise added jointly inside secure aggregation would replace `privatise` here; the event stays the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource


def privatise(update: Mapping[str, Tensor], plan: PrivacyPlan, noise: NoiseSource) -> dict[str, Tensor]:
    """Return the update scaled to norm at most C, plus N(0, (sigma C)^2) on every value.

    Args:
        update: what would be sent: new minus old weights, by name; floating point, left as it is.
        plan: with unit `client`; one call is one release, booked as `plan.round_event` beforehand.
        noise: the cryptographic source.

    Raises:
        PrivacyError: for a plan of another unit, or an update that is not finite.

    """
    if plan.unit != "client":
        raise PrivacyError(f"the plan protects each {plan.unit}, not the client", "Make a plan with unit=client.")
    squared = [value.detach().double().square().sum().cpu() for value in update.values()]
    norm = torch.stack(squared).sum().sqrt()
    if not bool(norm.isfinite()):
        raise PrivacyError("the site's update is not finite", "Lower the learning rate; nothing was released.")
    factor = float((plan.clipping.bound * (1 - 1e-6) / norm.clamp(min=1e-30)).clamp(max=1))
    return {name: noise.add_((value.detach() * factor).contiguous(), plan.std) for name, value in update.items()}
