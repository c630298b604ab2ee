"""Training with shared noise: what it needs, and this site's shares of the noise of a round.

Only one step per round is private here. A second step would follow the site's own noised step, which holds a share of
the noise only, and the site's patients can amplify it past the noise of the others. docs/privacy.md has the example.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhealth.config.schema import Sends, TrainingConfig
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.privacy.shared_release import check_noise_shares
from fedhealth.secagg.primitives.noise_grid import LEAST_SHARES
from fedhealth.training.trainer import TrainingTask


def check_shared_settings(training: TrainingConfig, sample_rate: float | None) -> None:
    """Check that the settings of a run that trains allow shared noise.

    Args:
        training: of the run.
        sample_rate: public probability of the run; None if it would differ between sites.

    Raises:
        PrivacyError: they do not.

    """
    if training.sends is not Sends.gradient or training.local_steps != 1:
        raise PrivacyError("shared noise needs training.sends=gradient with one local step", "Use method=fedsgd.")
    if sample_rate is None:
        raise PrivacyError("shared noise needs one privacy.sample_rate for all sites", "Give it a probability.")


def check_share_count(shares: int) -> None:
    """Check that the noise of a sum can count on enough honest sites.

    Raises:
        PrivacyError: it cannot.

    """
    if shares < LEAST_SHARES:
        raise PrivacyError(
            "shared noise needs secure aggregation and two honest sites in every sum",
            "Use privacy.noise=local, or invite more sites.",
        )


def get_step_shares(task: TrainingTask, plan: PrivacyPlan) -> Mapping[str, NoiseShare]:
    """Return the shares of a round, if the sum that they lead to has at least the noise that the plan promises.

    Args:
        task: of the round.
        plan: of the run at this site.

    Raises:
        PrivacyError: it has less, or the round is not one step of plain gradients; nothing was booked.

    """
    if task.shares is None or plan.steps != 1 or task.gradient_hook is not None:
        raise PrivacyError("shared noise needs a secure sum of one plain step", "Use secagg=on and method=fedsgd.")
    check_noise_shares(task.shares, plan.clipping.max_grad_norm, plan.round_event)
    return task.shares
