"""Training with shared noise: one step's clipped sum, with this site's share of the noise.

Only one step per round is private here. A second step would follow the site's own noised step, which holds a share of
the noise only, and the site's patients can amplify it past the noise of the others. docs/privacy.md has the example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from fedhealth.config.schema import Sends, TrainingConfig
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share
from fedhealth.secagg.primitives.noise_grid import LEAST_SHARES
from fedhealth.training.trainer import TrainingTask
from fedhealth.types import State

_ROUNDING = 1 - 1e-9  # of a noise multiplier that was computed from a share and back


def check_shared_settings(training: TrainingConfig, sample_rate: float | None, shares: int) -> None:
    """Check that a run's settings allow shared noise.

    Args:
        training: of the run.
        sample_rate: public probability of the run; None if it would differ between sites.
        shares: the most honest sites that the noise of a sum can count on.

    Raises:
        PrivacyError: they do not.

    """
    if training.sends is not Sends.gradient or training.local_steps != 1:
        raise PrivacyError("shared noise needs training.sends=gradient with one local step", "Use method=fedsgd.")
    if sample_rate is None:
        raise PrivacyError("shared noise needs one privacy.sample_rate for all sites", "Give it a probability.")
    if shares < LEAST_SHARES:
        raise PrivacyError(
            "shared noise needs secure aggregation and two honest sites in every sum",
            "Use privacy.noise=local, or invite more sites.",
        )


def check_noise_shares(task: TrainingTask, plan: PrivacyPlan) -> Mapping[str, NoiseShare]:
    """Return the shares of a round, if the sum that they lead to has at least the noise that the plan promises.

    Args:
        task: of the round.
        plan: of the run at this site.

    Raises:
        PrivacyError: it has less, or the round is not one step of plain gradients; nothing was booked.

    """
    if task.shares is None or plan.steps != 1 or task.gradient_hook is not None:
        raise PrivacyError("shared noise needs a secure sum of one plain step", "Use secagg=on and method=fedsgd.")
    for share in task.shares.values():
        multiplier = share.compute_multiplier(plan.clipping.max_grad_norm)
        if multiplier < plan.noise_multiplier * _ROUNDING or not LEAST_SHARES <= share.shares <= plan.shares:
            raise PrivacyError(
                "the sum would have less noise than this site's plan promises",
                "The site's policy has changed since it joined: restart the run.",
            )
        own = share.std / plan.clipping.max_grad_norm
        if not own >= plan.round_event.share_multiplier * _ROUNDING or not math.isfinite(own):
            raise PrivacyError("this site's share of the noise is too small", "Restart the run.")
    return task.shares


def draw_directions(sums: Mapping[str, Tensor], shares: Mapping[str, NoiseShare]) -> State:
    """Return the descending direction of every array that is summed, in steps of its grid, with fresh noise.

    The sum of an array that too few sites train stays here: no other part of the round depends on it.
    """
    source = NoiseSource()
    return {name: draw_share(-sums[name], share, source) for name, share in shares.items() if name in sums}
