"""FedPer: the head stays local.

Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, algorithm 1.
Base and head are trained together; only the base travels. The head is the fusion's (`fusion.head`).
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.personalization.base import Whole
from clients.personalization.head import without_head
from fedhealth.models.multimodal import MultimodalModel


class FedPer(Whole):
    """A local head."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return all but the head."""
        return without_head(trained)
