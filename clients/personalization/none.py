"""No personalization: every trained array is shared, as in FedAvg (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from clients.personalization.contract import LocalTask
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.training.loop import FitReport


class NoPersonalization:
    """One model for all."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return everything."""
        return list(trained)

    def train(self, local: LocalTask) -> FitReport:
        """Train the shared model."""
        return local.fit()
