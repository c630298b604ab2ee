"""FedPer: the head stays local.

Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, algorithm 1.
Base and head are trained together; only the base is shared. The head is part of the fusion (`fusion.head`).
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.personalization.base import BasePersonalization
from clients.personalization.head import exclude_head
from fedhealth.models.multimodal import MultimodalModel


class FedPer(BasePersonalization):
    """Keep the head local."""

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the arrays outside the head."""
        return exclude_head(trained)
