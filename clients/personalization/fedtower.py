"""FedTower: one modality's tower stays local, as where scanners or styles of notes differ and the rest agrees.

Personalised layers (Arivazhagan et al., "Federated Learning with Personalization Layers", 2019) at the input instead
of the output, by modality; Liang et al., "Think Locally, Act Globally", 2020, keep the whole encoder at the site in
the same way. The token for a missing modality is trained by the sites that lack it and is shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.personalization.base import Whole
from fedhealth.errors import ConfigError
from fedhealth.models.modality_keys import tower_of
from fedhealth.models.multimodal import MultimodalModel


class FedTower(Whole):
    """A local tower.

    Args:
        tower: `image`, `text` or `tabular`.

    """

    def __init__(self, tower: str = "image") -> None:
        self.tower = tower

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return all but the tower."""
        shared = [name for name in trained if tower_of(name) != self.tower]
        if len(shared) == len(trained):
            raise ConfigError(
                f"personalization.tower: the model trains no {self.tower!r} tower.",
                f"It has: {', '.join(sorted(model.modalities))}.",
            )
        return shared
