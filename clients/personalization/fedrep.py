"""FedRep: a local head, trained before the shared body.

Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, algorithm 1.

In each round `head_steps` steps train the head with the body fixed, then the other steps train the body with the new
head fixed. The fixed part has its gradient (in private training its noised gradient) set to None, so the optimizer
skips it, including momentum and weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from clients.personalization.head import exclude_head, is_in_head
from fedhealth.config.capabilities import BODY_STEPS
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.site.decline_reasons import NO_BODY_STEPS, format_reason
from fedhealth.training.trainer import GradientHook


class FedRep(BasePersonalization):
    """Train a local head first, then the shared body.

    Args:
        head_steps: steps of each round that train the head; the others train the body.

    """

    requires = (BODY_STEPS,)

    def __init__(self, head_steps: int = 1) -> None:
        self.head_steps = head_steps

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the arrays outside the head."""
        return exclude_head(trained)

    def train(self, local: LocalRound) -> TrainingResult:
        """Train the head, then the body."""
        return TrainingResult(local.fit(make_alternating_hook(self.head_steps)))

    def find_decline_reasons(self, steps: int) -> list[str]:
        """Return a reason if a round at this site has no step left for the body."""
        return [format_reason(NO_BODY_STEPS, self.head_steps)] if steps <= self.head_steps else []


def make_alternating_hook(head_steps: int) -> GradientHook:
    """Return a hook that removes the gradient of the part that the current step does not train."""

    def hook(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if is_in_head(name) != (step < head_steps):
                parameter.grad = None

    return hook
