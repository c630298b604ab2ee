"""What the institution asks of a personalization method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedhealth.models.multimodal import MultimodalModel
from fedhealth.training.loop import FitReport, Place, Task, Trainer


@dataclass(frozen=True)
class LocalTask:
    """One round's work at a site: the model holds the incoming shared arrays and the site's private ones."""

    task: Task
    trainer: Trainer
    place: Place

    def fit(self) -> FitReport:
        """Train the model in place."""
        return self.trainer.fit(self.task, self.place)


class Personalization(Protocol):
    """Decides what is shared and trains."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return which of the trained arrays travel; the others stay in the site's private state."""

    def train(self, local: LocalTask) -> FitReport:
        """Train for one round."""
