"""The noisy step: Opacus's optimizer interface over clipped sums, with noise that nobody can seed.

Once per logical batch: noise on every parameter's clipped sum (also on those no row touched), division by the plan's
fixed normaliser, then terms that need no privacy (FedProx, SCAFFOLD), then the wrapped optimizer, whose weight decay
thus also comes after the noise.
"""

from collections.abc import Callable, Iterable

import torch
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import Event
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

AfterNoise = Callable[[Iterable[nn.Parameter]], None]
"""Adds terms to `p.grad` that depend on no patient: proximal terms, control variates."""


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus's DPOptimizer for engines that clip themselves and leave the sum in `p.summed_grad`.

    It takes a step only against steps that were booked: `allow` hands them over.

    Args:
        optimizer: any torch optimizer over the trainable parameters.
        plan: gives the noise and the normaliser.
        noise: the source; made here when not given.
        after_noise: called with the parameters once their gradients are noised.

    """

    def __init__(
        self,
        optimizer: Optimizer,
        plan: PrivacyPlan,
        noise: NoiseSource | None = None,
        after_noise: AfterNoise | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.sigma,
            max_grad_norm=plan.clipping.bound,
            expected_batch_size=plan.normaliser,
        )
        self._plan = plan
        self._noise = noise or NoiseSource()
        self._after_noise = after_noise
        self._allowed = 0

    def allow(self, booked: Event) -> None:
        """Permit the steps of an event that the ledger has booked.

        Raises:
            PrivacyError: when the event is not the plan's mechanism.

        """
        if (booked.sigma, booked.rate) != (self._plan.sigma, self._plan.rate):
            raise PrivacyError("the booked event is not this plan's", "Book plan.round_event.")
        self._allowed += booked.steps

    @property
    def accumulated_iterations(self) -> int:
        """One: physical batches of a logical batch are one step to the accountant."""
        return 1

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise and scale; the wrapped optimizer follows.

        Raises:
            PrivacyError: when the step was not booked.

        """
        if self._check_skip_next_step():
            self._is_last_step_skipped = True
            return False
        if self._allowed < 1:
            raise PrivacyError("this step was not booked", "Book the round in the ledger, then allow(event).")
        self._allowed -= 1
        self.add_noise()
        self.scale_grad()
        if self._after_noise:
            self._after_noise(self.params)
        if self.step_hook:
            self.step_hook(self)
        self._is_last_step_skipped = False
        return True

    def add_noise(self) -> None:
        """Turn every parameter's clipped sum into its noised sum, in `p.grad`."""
        for p in self.params:
            if not p.requires_grad:
                continue
            total = p.summed_grad if p.summed_grad is not None else torch.zeros_like(p)
            p.grad, p.summed_grad = self._noise.add_(total, self._plan.std), None

    def scale_grad(self) -> None:
        """Divide by the plan's normaliser, which no batch size enters."""
        for p in self.params:
            if p.grad is not None:
                p.grad /= self._plan.normaliser

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; the clipped sums too, unless the last step was skipped."""
        for p in self.params:
            if not self._is_last_step_skipped:
                p.summed_grad = None
        self.original_optimizer.zero_grad(set_to_none)
