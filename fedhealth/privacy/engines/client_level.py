"""Client-level privacy: a site's update is clipped and noised at the site before it is masked and sent.

The protected unit is the client: the model reveals little about whether this hospital took part at all. Noise that is
added jointly inside secure aggregation would replace `clip_and_noise_update`; the event would stay the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.base import zero_non_finite
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource


def clip_and_noise_update(update: Mapping[str, Tensor], plan: PrivacyPlan, noise: NoiseSource) -> dict[str, Tensor]:
    """Return the update scaled to norm at most C, plus N(0, (noise multiplier x C)^2) on every value.

    Args:
        update: new minus old weights, by name; floating point, not modified. If a value or the norm is not finite, the
            whole update counts as zero and only noise is returned: an error would tell that the training diverged.
        plan: with unit `client`; one call is one release, booked as `plan.round_event` beforehand.
        noise: the cryptographic source.

    Raises:
        PrivacyError: the plan protects another unit.

    """
    if plan.unit != "client":
        raise PrivacyError(f"the plan protects each {plan.unit}, not the client", "Make a plan with unit=client.")
    squared = [value.detach().double().square().sum().cpu() for value in update.values()]
    norm = torch.stack(squared).sum().sqrt()
    factor = (plan.clipping.max_grad_norm * (1 - 1e-6) / norm.clamp(min=1e-30)).clamp(max=1)
    factor = factor.where(norm.isfinite(), torch.zeros_like(factor))
    clipped = {
        name: zero_non_finite(value.detach() * factor.to(value.device, value.dtype)) for name, value in update.items()
    }
    return {name: noise.add_(value.contiguous(), plan.noise_std) for name, value in clipped.items()}
