"""What the institution asks of a personalization method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.batches import Examples
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.training.loop import FitReport, Trainer


@dataclass(frozen=True)
class LocalTask:
    """One round's work at a site: the model holds the incoming shared arrays and the site's private ones."""

    model: MultimodalModel
    trainer: Trainer
    examples: Examples
    rows: np.ndarray
    training: TrainingConfig
    kind: TaskKind
    seed: int

    def fit(self) -> FitReport:
        """Train the model in place."""
        return self.trainer.fit(self.model, self.examples, self.rows, self.training, self.kind, self.seed)


class Personalization(Protocol):
    """Decides what is shared and trains."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return which of the trained arrays travel; the others stay in the site's private state."""

    def train(self, task: LocalTask) -> FitReport:
        """Train for one round."""
