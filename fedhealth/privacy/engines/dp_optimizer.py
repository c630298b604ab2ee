"""The noisy step: Opacus's optimizer interface for clipped sums, with noise from a generator that cannot be seeded.

Once per logical batch, noise is added to every parameter's clipped sum (also where no row contributed) and the result
is divided by the plan's fixed expected batch size. Terms that need no privacy (FedProx, SCAFFOLD) are added next. The
wrapped optimizer comes last, so its weight decay is applied after the noise.
"""

from collections.abc import Callable, Iterable

import torch
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

AfterNoise = Callable[[Iterable[nn.Parameter]], None]
"""Adds terms to `p.grad` that depend on no patient: proximal terms, control variates."""


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus's DPOptimizer for engines that clip the gradients and write the sum to `p.summed_grad`.

    It takes only steps that were booked: call `allow_steps` with the booked event first.

    Args:
        optimizer: any torch optimizer over the trainable parameters.
        plan: gives the noise and the expected batch size.
        noise: the source; None creates one.
        after_noise: called with the parameters after noise was added to their gradients.

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
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clipping.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self._plan = plan
        self._noise = noise or NoiseSource()
        self._after_noise = after_noise
        self._allowed_steps = 0

    def allow_steps(self, booked: PrivacyEvent) -> None:
        """Allow the steps of an event that the ledger has booked.

        Raises:
            PrivacyError: the event is not the plan's mechanism.

        """
        if (booked.noise_multiplier, booked.sample_rate) != (self._plan.noise_multiplier, self._plan.sample_rate):
            raise PrivacyError("the booked event is not this plan's", "Book plan.round_event.")
        self._allowed_steps += booked.steps

    @property
    def accumulated_iterations(self) -> int:
        """One: physical batches of a logical batch are one step to the accountant."""
        return 1

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Add noise and scale; the wrapped optimizer follows.

        Raises:
            PrivacyError: the step was not booked.

        """
        if self._check_skip_next_step():
            self._is_last_step_skipped = True
            return False
        if self._allowed_steps < 1:
            raise PrivacyError("this step was not booked", "Book the round in the ledger, then allow_steps(event).")
        self._allowed_steps -= 1
        self.add_noise()
        self.scale_grad()
        if self._after_noise:
            self._after_noise(self.params)
        if self.step_hook:
            self.step_hook(self)
        self._is_last_step_skipped = False
        return True

    def add_noise(self) -> None:
        """Write every parameter's clipped sum plus noise to `p.grad`."""
        for p in self.params:
            if not p.requires_grad:
                continue
            total = p.summed_grad
            if total is None:
                total = torch.zeros_like(p, memory_format=torch.contiguous_format)  # as the noise is added
            p.grad, p.summed_grad = self._noise.add_(total, self._plan.noise_std), None

    def scale_grad(self) -> None:
        """Divide by the plan's expected batch size, which does not depend on the actual batch."""
        for p in self.params:
            if p.grad is not None:
                p.grad /= self._plan.expected_batch_size

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; the clipped sums too, unless the last step was skipped."""
        for p in self.params:
            if not self._is_last_step_skipped:
                p.summed_grad = None
        self.original_optimizer.zero_grad(set_to_none)
