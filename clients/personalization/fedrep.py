"""FedRep: a local head, trained before the shared body.

Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, algorithm 1.

In each round the head takes `head_steps` steps with the body fixed, then the body takes the others with the new head
fixed. The part that rests loses its gradient, in private training its noised one: an optimizer skips it, momentum and
weight decay included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from clients.personalization.base import LocalTask, Outcome, Whole
from clients.personalization.head import in_head, without_head
from fedhealth.errors import ConfigError
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.training.trainer import Correction


class FedRep(Whole):
    """A local head, and phases.

    Args:
        head_steps: steps of a round that train the head; the others train the body.

    """

    def __init__(self, head_steps: int = 1) -> None:
        self.head_steps = head_steps

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return all but the head."""
        return without_head(trained)

    def train(self, local: LocalTask) -> Outcome:
        """Train the head, then the body.

        Raises:
            ConfigError: this site's round is too short for the body to have its turn.

        """
        report = local.fit(head_first(self.head_steps))
        if report.steps <= self.head_steps:
            raise ConfigError(
                f"personalization.head_steps: {self.head_steps} of a round's {report.steps} steps leave the body none.",
                "Lower it, or train longer each round.",
            )
        return Outcome(report)


def head_first(head_steps: int) -> Correction:
    """Return a correction that takes the gradient from the part whose turn it is not."""

    def correct(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if in_head(name) != (step < head_steps):
                parameter.grad = None

    return correct
