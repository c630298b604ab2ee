"""FedTower: one modality's tower stays local, for sites whose scanners or styles of notes differ.

Personalization layers (Arivazhagan et al., "Federated Learning with Personalization Layers", 2019) at the input instead
of the output, by modality; Liang et al., "Think Locally, Act Globally", 2020, keep the whole encoder at the site in
the same way. The token for a missing modality is shared: the sites that lack the modality train it.
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.personalization.base import BasePersonalization
from fedhealth.config.capabilities import NAMED_TOWER
from fedhealth.errors import ConfigError
from fedhealth.models.modality_keys import get_tower
from fedhealth.models.multimodal import MultimodalModel


class FedTower(BasePersonalization):
    """Keep the tower of one modality local.

    Args:
        tower: `image`, `text` or `tabular`.

    """

    requires = (NAMED_TOWER,)

    def __init__(self, tower: str = "image") -> None:
        self.tower = tower

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the arrays outside the tower."""
        shared = [name for name in trained if get_tower(name) != self.tower]
        if len(shared) == len(trained):
            raise ConfigError(
                f"personalization.tower: the model trains no {self.tower!r} tower.",
                f"It has: {', '.join(sorted(model.modalities))}.",
            )
        return shared
